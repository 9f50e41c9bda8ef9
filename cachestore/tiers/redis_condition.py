"""What a Redis server says of itself, and what it lets us do."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from cachestore.tiers.resp import Command, Connection
from cachestore.tiers.resp_errors import Broken, Refused, checked

POLICY = "volatile-lru"
"""Under any other, Redis would drop what must stay, or refuse writes where old blocks should leave."""


class Condition(NamedTuple):
    """`used` and `capacity` in bytes; a server without a cap has the machine's memory."""

    policy: str
    primary: bool
    clustered: bool
    replicas: int
    used: int
    capacity: int

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """What INFO says; Broken if it may not be asked."""
        answers = connection.ask([("INFO", section) for section in ("memory", "replication", "cluster")])
        text = b"".join(checked(answer, bytes) for answer in answers)
        fields = dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)
        try:
            return cls(
                fields["maxmemory_policy"], fields["role"] == "master", fields["cluster_enabled"] == "1",
                int(fields["connected_slaves"]), int(fields["used_memory"]),
                int(fields["maxmemory"]) or int(fields["total_system_memory"]),
            )  # fmt: skip
        except (KeyError, ValueError):
            raise Broken("protocol") from None


_PROBE = "cachestore:probe"
NEEDED: tuple[Command, ...] = (
    ("SET", _PROBE, "", "PX", 1), ("GET", _PROBE), ("EXISTS", _PROBE), ("UNLINK", _PROBE), ("SCAN", 0, "COUNT", 1),
    ("PTTL", _PROBE), ("PEXPIRE", _PROBE, 1), ("INFO", "memory"),
)  # fmt: skip
NEEDED_DURABLE: tuple[Command, ...] = (
    ("GETRANGE", _PROBE, 0, 0), ("PERSIST", _PROBE), ("WATCH", _PROBE), ("UNWATCH",), ("MULTI",), ("EXEC",),
)  # fmt: skip


def denied(connection: Connection, commands: Sequence[Command]) -> list[str]:
    """Which of these commands the user may not give, or not for keys of ours."""
    answers = zip(commands, connection.ask(commands), strict=True)
    return [str(name) for (name, *_), answer in answers if isinstance(answer, Refused) and answer.code == "NOPERM"]
