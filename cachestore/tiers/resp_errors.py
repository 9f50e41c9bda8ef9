"""What a Redis server may say instead of an answer, and which of it ends the connection."""

from typing import Any

FAULTS = {
    **dict.fromkeys(["NOAUTH", "WRONGPASS", "NOPERM"], "auth"),
    **dict.fromkeys(["LOADING", "BUSY", "MASTERDOWN"], "loading"),
    **dict.fromkeys(["READONLY", "CLUSTERDOWN"], "moved"),
}
"""Errors that say something about the server, by their first word."""


class Broken(Exception):
    """This connection is of no more use. `reason` is one word; after a timeout, `waited` is how long nothing moved."""

    def __init__(self, reason: str, waited: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.waited = waited


class Refused(Exception):
    """The server's answer to one command is an error; the connection is as good as before."""

    @property
    def code(self) -> str:
        """Its first word, such as WRONGTYPE."""
        return str(self).partition(" ")[0]

    @property
    def elsewhere(self) -> bool:
        """Whether it says no more than that another node of the cluster has this name."""
        return str(self).startswith(("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN Hash slot"))


def checked(answer: Any, *kinds: type) -> Any:
    """An answer of one of these kinds, None and Refused among them if they are asked for; Broken for any other.

    An error about the server and not the command is always Broken.
    """
    if isinstance(answer, Refused) and answer.code in FAULTS and not answer.elsewhere:
        raise Broken(FAULTS[answer.code])
    if not isinstance(answer, kinds):
        raise Broken("protocol")
    return answer
