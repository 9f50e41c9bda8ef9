"""The store: tiers, index and policies behind one interface, seen through the eyes of one namespace.

`base` is the interface, the same for a store in this process and for one over gRPC. `tiered` is the store itself.
"""
