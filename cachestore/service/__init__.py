"""The store over gRPC: a server in front of a local store, and a client with the local store's interface.

`convert` alone knows both wire messages and domain types; `status` is the one table between errors and status codes;
`guard` puts it, admission, deadlines and the caller's identity around every method. Off loopback nobody is served who
is not known, unless that is spelled out.
"""
