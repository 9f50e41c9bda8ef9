"""The transport that is always there, and the contract: frames on gRPC streams.

transport, source, sink, following   the client's side: reads, puts, blocks that are still being written
reading, writing, provisional        the store's side of the same
frames, outbox                       messages without protobuf's copies, and a bound on those that wait
watchdog                             ends what gRPC does not
"""
