"""What is where, followed instead of asked for.

watching         the store's side of Watch
mirror, view     a client's copy of the index, and what it knows
kv_events, publisher   the same in vLLM's format
"""
