"""The transport between nodes: agreed on over gRPC, with the bytes on a TCP connection of their own.

transport, lines, source, sink               the client's side: its connections, its reads, its puts
server, sending, receiving, reserving        the store's side
format, line, answers                        what both say on one connection
"""
