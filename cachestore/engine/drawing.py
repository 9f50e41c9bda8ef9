"""Which token comes next, for all sequences of a step at once.

A draw depends on nothing but the logits, the request's seed, which of its choices it is, and the position of the token:
no state travels with a sequence, so it draws the same tokens in any batch, after a preemption, and in another process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

from cachestore.engine.sampling import Sampling


@dataclass(frozen=True)
class Draw:
    """One token to draw: how, for which choice of a request (0 .. n - 1), and at which position of the sequence.

    With `logprobs`, that many of the likeliest tokens are told beside it; None tells nothing.
    """

    sampling: Sampling
    position: int
    choice: int = 0
    logprobs: int | None = None


class Drawn(NamedTuple):
    """A token; where asked for, the logarithm of its probability and of the likeliest ones by token."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1) of its own for every (seed, choice, position): 53 bits of SHA-256 over them, as u64 each."""
    words = b"".join(number.to_bytes(8, "little") for number in (seed, choice, position))
    return (int.from_bytes(sha256(words).digest()[:8], "little") >> 11) / (1 << 53)


def draw(logits: Tensor, draws: Sequence[Draw]) -> list[Drawn | None]:
    """One token for each row of `logits`, [draws, vocabulary]; probabilities told are those before `sampling`.

    None for a row with a NaN or whose greatest is infinite: nothing can be drawn from it.
    """
    best = logits.argmax(-1, keepdim=True)
    # a NaN is greater than any number to torch
    usable: list[bool] = logits.gather(-1, best).isfinite().flatten().tolist()
    told: list[Drawn | None] = []
    for row, (each, greedy) in enumerate(zip(draws, best.flatten().tolist(), strict=True)):
        if not usable[row]:
            told.append(None)
            continue
        token = greedy if each.sampling.temperature == 0.0 else _drawn(logits[row], each)
        told.append(Drawn(token) if each.logprobs is None else _told(logits[row], token, each.logprobs))
    return told


def kept(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities [kept] of the tokens [kept] that may be drawn from `logits` [vocabulary], likeliest first.

    Temperature, then top-k, top-p (the fewest tokens that reach it; arXiv 1904.09751) and min-p (no token with less
    than this part of the likeliest one's probability; arXiv 2407.01082), each of what the ones before left.
    """
    scores = logits.detach().to("cpu", torch.float32).double()
    # none is above zero, so that no temperature is too low to divide by
    scores = (scores - scores.max()) / sampling.temperature
    # equal scores in the order of tokens, so that any device draws alike
    scores, tokens = scores.sort(descending=True, stable=True)
    if sampling.top_k:
        scores, tokens = scores[: sampling.top_k], tokens[: sampling.top_k]
    chances = scores.softmax(-1)
    if sampling.top_p:
        # a token stays if the better ones do not reach top_p without it; so the best always stays
        chances = chances[chances.cumsum(-1) - chances < sampling.top_p]
    if sampling.min_p:
        chances = chances[chances >= sampling.min_p * chances[0]]
    return chances / chances.sum(), tokens[: len(chances)]


def _drawn(logits: Tensor, each: Draw) -> int:
    chances, tokens = kept(logits, each.sampling)
    # one behind the other in the order of tokens: in that of chances, rounding would swap those that nearly tie
    ends = chances.new_zeros(len(logits)).scatter_(0, tokens, chances).cumsum(-1)
    point = uniform(each.sampling.seed, each.choice, each.position) * ends[-1]
    return int(torch.searchsorted(ends, point, right=True))


def _told(logits: Tensor, token: int, count: int) -> Drawn:
    logarithms = logits.float().log_softmax(-1)
    values, tokens = logarithms.topk(min(count, len(logarithms)))
    top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
    return Drawn(token, float(logarithms[token]), top)
