"""Pages on a device, between the workers of one node: owned by one, found by the store, read by the others.

node_pages     what a worker opens beside its store: `NodePages`
registering    the owner's side: the store is told what its tier holds
session        the session with the store, and the slabs that it was shown
source         the reader's side: blocks are copied out of pages, on the device or to the host
on_device      what it hands out

The store's side is `cachestore.service.shared.pages` and `cachestore.store.owned_pages`.
"""
