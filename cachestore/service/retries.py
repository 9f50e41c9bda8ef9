"""Which calls are made a second time: those that change nothing, once, and only a small part of all."""

import random
import time
from dataclasses import dataclass
from threading import Lock

import grpc

IDEMPOTENT = frozenset({"Lookup", "Stats", "ClusterMap", "ListPins"})
"""What can be asked twice without anybody noticing."""

PAUSE = (0.1, 0.2)
"""Seconds between the two tries, drawn anew each time: a channel connects again after a tenth of a second, and many
callers that one outage hit should not come back as one."""

SHARE = 0.1
"""How many second tries a call that went well earns."""

QUICK = 0.5
"""Seconds in which a call fails that met a connection just broken. One that failed later met a store that is frozen:
to ask that again takes as long again."""

MOST = 10.0
"""How many may be saved up."""


@dataclass(eq=False)
class Retries:
    """Second tries of one connection. While the store is away they are soon used up: then every call fails at once."""

    _left: float = MOST

    def __post_init__(self) -> None:
        self._lock = Lock()

    def earn(self) -> None:
        """A call went well."""
        with self._lock:
            self._left = min(MOST, self._left + SHARE)

    def again(self, method: str, error: grpc.RpcError, took: float, timeout: float) -> bool:
        """Whether to try again now, after a pause, what failed after `took` of its `timeout` seconds."""
        pause = random.uniform(*PAUSE)
        if method not in IDEMPOTENT or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return False
        if took > QUICK or took + pause >= timeout:
            return False
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
        time.sleep(pause)
        return True
