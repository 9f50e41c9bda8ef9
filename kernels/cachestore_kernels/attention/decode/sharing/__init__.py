"""How programs share a sequence: which tiles are whose, and what they find put together."""
