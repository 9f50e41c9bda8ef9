"""The transport of one node: the store's memory itself; no payload crosses a socket.

transport, sessions, client, source, sink   the client's side: its sessions, its reads, its puts
mapped, filling, alike, lent                the store's memory as it sees it, and many blocks of it at once
server, session, lending, slabs, place      the store's side
pages                                       the same for pages of workers, see `cachestore.service.pages`
messages                                    what both say on the socket
"""
