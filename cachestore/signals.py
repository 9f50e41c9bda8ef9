"""Waiting for a signal, without missing any.

The kernel gives a signal to any thread of a process, and Python runs its handler in the main one as soon as that runs.
A main thread that waits for a lock does not run: it sleeps on if the signal came just before, or to another thread. And
a handler that takes the lock of an `Event` may interrupt the very code that has it.
"""

import time
from collections.abc import Sequence

LOOK_SECONDS = 0.1
"""How often it is looked."""


def await_signal(came: Sequence[int]) -> None:
    """Returns once `came` has something: the numbers of signals, which their handlers append."""
    while not came:
        time.sleep(LOOK_SECONDS)
