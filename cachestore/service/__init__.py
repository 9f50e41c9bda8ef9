"""The store over gRPC: a server in front of a local store, and a client with the local store's interface.

server, servicer, settings, listening, members, heartbeat   the store's side
client, connection, remote_reading, remote_put              the client's side
transport, transports, landing, ranges, tickets             how payload travels: by one of
shared/  bulk/  stream/                                      memory of the same node, bytes between nodes, gRPC
auth/                                                        who calls: guard around every method
events/                                                      what is where, followed
health/                                                      probes, drain, peers that stand still
convert*, words, status, options                             wire messages to domain types; errors to status codes

`convert` alone knows both wire messages and domain types; `status` is the one table between errors and status codes.
Off loopback nobody is served who is not known, unless that is spelled out.
"""
