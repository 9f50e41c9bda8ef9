"""Writers, readers and an auditor, while a seeded nemesis breaks what carries them; what must be zero is counted.

    python -m tests.soak --minutes 10 [--nodes 3] [--seed 1] [--json]
    python -m tests.soak.recovery [--trials 30] [--json]

A node is a store process with memory, disk and Redis, the fault proxy before its port and before Redis. Several nodes
share the Redis and are one store: a prompt is put and deleted at one of them and read at all, and others reach a node
through the proxy before its port, as clients do. Payload follows from the key alone, writers note what they intend
before they do it and what was acknowledged after, readers note what every call gave; the checks run over these notes.
Faults are counted by the effect that was seen.
"""
