"""Computes the KV of prompts, writes it into the store in blocks, and hands it over.

`worker` is the logic, `service` its methods on the wire, `server` puts them together with an engine and a store,
`client` asks for a prefill. What decode workers need in the same way stands here too: `base` (what a worker works
with), `call` and `running` (requests under way), `prompt`, `token`, `stores`, `serving`, `connection`, `process`.
"""
