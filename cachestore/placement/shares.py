"""Who gave more than its share lately, and should not be chosen for what it holds until others hold it, too.

Queues do not tell: who answers from memory is done sooner, so reads of popular blocks pile up where they lie while
every queue is short. A worker elsewhere that is given such a prompt reads it from there once, keeps a copy, and is a
holder from then on: so blocks spread as far as their popularity asks for, and no farther.

Plain data in, plain data out: time is what the caller says, in seconds.
"""

from dataclasses import dataclass, field
from math import exp

_WEIGHED = 20.0
"""Amounts are kept as if all were given at one time, so later ones weigh more; it is moved after so many memories."""

_NOTHING = 1e-6
"""Less than this is forgotten."""


@dataclass(eq=False)
class Shares:
    """What each node gave lately: amounts fade by a factor of e in `memory` seconds.

    A node is over its share if it gave more than `most` times the mean, and `spare` more: in the unit of the amounts,
    so that a few prompts in a quiet hour are no crowd.
    """

    most: float = 1.2
    memory: float = 300.0
    spare: float = 0.0
    _given: dict[str, float] = field(default_factory=dict)
    _sum: float = 0.0
    _since: float = 0.0

    def gave(self, node: str, amount: float, now: float) -> None:
        """`node` gave so much. `now` never goes back."""
        if now - self._since > _WEIGHED * self.memory:
            left = exp((self._since - now) / self.memory)
            self._given = {name: given * left for name, given in self._given.items() if given * left > _NOTHING}
            self._sum, self._since = sum(self._given.values()), now
        weighed = amount * exp((now - self._since) / self.memory)
        self._given[node] = self._given.get(node, 0.0) + weighed
        self._sum += weighed

    def over(self, node: str, nodes: int, now: float) -> bool:
        """Whether `node`, one of so many, is over its share."""
        beyond = self._given.get(node, 0.0) - self.most * self._sum / nodes
        return beyond * exp((self._since - now) / self.memory) > self.spare
