"""Generates: takes a prompt's KV over from a prefill worker, reads it from the store, and goes on from there.

`worker` holds what requests share, `generation` is one request, `asking` and `choosing` find a prefill worker,
`taking` reads a handoff; `service`, `server` and `client` are the wire. Whatever is missing is computed here: with
any part of the system away, the tokens are the same.
"""
