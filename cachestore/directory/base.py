"""The contract of a directory: which nodes hold a block in memory, as far as they told."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple, Protocol, TypeAlias

from cachestore.deadline import Deadline
from cachestore.errors import InvalidArgument
from cachestore.metrics import Figure

INCARNATION_BYTES = 8
LONGEST_NAME = 255

MOST_LIVED = 64
"""Incarnations of its own that a process remembers."""

Held: TypeAlias = Collection[tuple[bytes, bytes]]
"""What a node holds in memory now, as (namespace, key); it is iterated over now and then, from another thread."""


@dataclass(frozen=True)
class Life:
    """A node from when it joined until it left, died, or was forgotten by the directory.

    `incarnation` names the life, and no other one ever. Of a node that joined twice only the later life counts.
    `queue` says how busy it was lately, in any unit that all nodes share.
    """

    node: str
    address: str
    incarnation: bytes
    queue: int = 0


class Earlier(NamedTuple):
    """A life that may go on although a later one of its name counts; surely so if it was heard of since that began."""

    life: Life
    goes_on: bool


class Where(NamedTuple):
    """Who has a block: lives that hold it in memory, and whether the Redis tier has it."""

    holders: tuple[Life, ...] = ()
    redis: bool = False


NOWHERE = Where()


def idle() -> int:
    """The queue of a node that does not say."""
    return 0


def check_names(node: str, address: str) -> None:
    """InvalidArgument unless a node may be called that, and be reached there."""
    for field, text in (("node", node), ("address", address)):
        if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
            raise InvalidArgument(f"{field} must be 1 to {LONGEST_NAME} printable signs, got {text[:40]!r}")


class Directory(Protocol):
    """One process's part in a directory. Thread-safe; `step` is for one thread at a time.

    Nothing here but `drop` raises because the directory cannot be reached: what cannot be asked is nowhere, what cannot
    be told is told later, `healthy` says so, and figures count it.
    """

    due: Event
    """Set when there is something for `step` to do before it is called again anyway."""

    @property
    def every(self) -> float:
        """Seconds after which `step` is to be called at the latest."""

    @property
    def healthy(self) -> bool:
        """Whether the directory can be reached; it is tried again by itself."""

    @property
    def life(self) -> Life | None:
        """This process's own life; None before `join` and after `leave`."""

    @property
    def lived(self) -> tuple[bytes, ...]:
        """The incarnations that this process has, and had lately: others may not know yet that it has another one."""

    def open(self) -> None:
        """Acquires the directory. ConfigError or Unavailable, with the way out, if it cannot be used."""

    def close(self) -> None:
        """Releases what `open` acquired, and says nothing to anybody. Closing twice is allowed."""

    def join(self, node: str, address: str, held: Held, queue: Callable[[], int] = idle) -> None:
        """From here on this process is the node `node`, which holds `held`. InvalidArgument if it joined before.

        What it holds is announced by and by, and again whenever the directory lost it. `queue` is asked now and then.
        """

    def leave(self) -> None:
        """Ends this process's life: from now on it holds nothing."""

    def announce(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """These blocks are in `held` now. Returns at once; InvalidArgument before `join`."""

    def withdraw(self, namespace: bytes, keys: Sequence[bytes]) -> None:
        """These blocks are no longer in `held`. Returns at once; InvalidArgument before `join`."""

    def lookup(self, namespace: bytes, keys: Sequence[bytes], deadline: Deadline) -> list[Where]:
        """Who has each of these blocks, in one round trip. Renews nothing."""

    def wrong(self, namespace: bytes, keys: Sequence[bytes], incarnation: bytes) -> None:
        """This life was said to hold these blocks, and does not. Returns at once."""

    def drop(self, node: str, deadline: Deadline) -> None:
        """Forgets a node that is dead, without waiting for its time to be over. One that is not joins again.

        Unavailable if the directory could not be told so, or not in whole: others may believe in it still.
        """

    def lives(self) -> tuple[Life, ...]:
        """All that are alive, by name, as last known."""

    def earlier(self) -> tuple[Earlier, ...]:
        """Those whom a later life of their name hides, and who may have all the same what they said they hold.

        Without those that are surely over: the later one stands where they stood.
        """

    def refresh(self, deadline: Deadline) -> bool:
        """Asks now who lives; whether `lives` has everybody who had joined before that.

        Not so if part of the directory does not answer in time, or does not know of this process, which has joined.
        """

    def step(self) -> None:
        """Does what is due: says that this process lives, tells what changed, cleans up. Never raises."""

    def figures(self) -> list[Figure]:
        """What happened so far. Everything that was not told although it should have been is counted."""
