"""Machines of a small network that are namespaces of this one: each has an address, and every way can be cut.

They hang on one router, which loses what it is told to lose and tells nobody. Nothing of it is in the machine's own
network, no name is left behind, and all of it goes with the process that made it. No privilege is needed where a user
may have namespaces.
"""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

HOLD = ("sh", "-c", "echo there; exec cat")
"""Keeps a namespace until its input ends."""


class Forbidden(Exception):
    """This machine lets nobody make such a network; the message says what failed."""


@dataclass(frozen=True)
class Machine:
    """`prefix` before a command runs it there."""

    name: str
    address: str
    prefix: tuple[str, ...]


@dataclass
class Network:
    """Machines that reach each other, except where that is cut."""

    machines: dict[str, Machine] = field(default_factory=dict)
    cuts: set[tuple[str, str]] = field(default_factory=set)
    _stack: ExitStack = field(default_factory=ExitStack)
    _router: int = 0

    def __enter__(self) -> Self:
        try:
            self._router = self._held("unshare", "--map-root-user", "--net")
            self._route("link set lo up")
            self._told(self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            self.add("probe")
            # what forwards must be able to lose, too
            self.cut("probe", "probe")
            self.mend()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, name: str) -> Machine:
        """One more machine."""
        number = len(self.machines) + 1
        inside = ("nsenter", "--target", str(self._router), "--user", "--preserve-credentials")
        pid = self._held(*inside, "unshare", "--net")
        self._route(
            f"link add to{number} type veth peer name eth0 netns {pid}",
            f"address add 10.77.{number}.1/24 dev to{number}",
            f"link set to{number} up",
        )
        self._ip(
            pid, "link set lo up", f"address add 10.77.{number}.2/24 dev eth0", "link set eth0 up",
            f"route add default via 10.77.{number}.1",
        )  # fmt: skip
        self.machines[name] = Machine(name, f"10.77.{number}.2", self._inside(pid))
        return self.machines[name]

    def cut(self, source: str, sink: str) -> None:
        """From now on nothing comes from `source` to `sink`, and nobody is told."""
        if (source, sink) not in self.cuts:
            self._route(f"rule add {self._between(source, sink)} blackhole")
            self.cuts.add((source, sink))

    def part(self, *pair: str) -> None:
        """Cuts both ways between two machines."""
        self.cut(*pair)
        self.cut(*reversed(pair))

    def mend(self) -> None:
        """Undoes all cuts."""
        for source, sink in self.cuts:
            self._route(f"rule del {self._between(source, sink)} blackhole")
        self.cuts.clear()

    def _between(self, source: str, sink: str) -> str:
        return f"from {self.machines[source].address} to {self.machines[sink].address}"

    def _held(self, *command: str) -> int:
        try:
            holder = subprocess.Popen(
                [*command, *HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise Forbidden(f"{command[0]} is not to be had: {error.strerror}") from error
        self._stack.callback(holder.communicate)
        assert holder.stdout is not None
        if not holder.stdout.readline():
            raise Forbidden(f"{' '.join(command)}: {holder.communicate()[1].strip()}")
        return holder.pid

    def _route(self, *lines: str) -> None:
        self._ip(self._router, *lines)

    def _ip(self, pid: int, *lines: str) -> None:
        self._told(pid, "ip", "-batch", "-", said="\n".join(lines) + "\n")

    def _told(self, pid: int, *command: str, said: str = "") -> None:
        try:
            done = subprocess.run([*self._inside(pid), *command], input=said, capture_output=True, text=True)
        except OSError as error:
            raise Forbidden(f"nsenter is not to be had: {error.strerror}") from error
        if done.returncode:
            raise Forbidden(f"{' '.join(command)}: {done.stderr.strip()}")

    @staticmethod
    def _inside(pid: int) -> tuple[str, ...]:
        return ("nsenter", "--target", str(pid), "--user", "--net", "--preserve-credentials")
