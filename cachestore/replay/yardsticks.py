"""The best that could be: an infinite cache, and one of the same capacity that knows the future.

**The optimum** takes the leaf whose next use is farthest (Belady, "A study of replacement algorithms for a
virtual-storage computer", 1966), and need not keep a block of the request at hand that is the farthest itself. It is
exact, not a heuristic: keeping a block from one use to the next is an interval that is worth one hit, at no time may
more intervals overlap than there is capacity, and among intervals of equal worth the greedy choice, giving up the one
that ends last, keeps the most (Carlisle and Lloyd, "On the k-coloring of intervals", 1995). That it may take leaves
only costs it nothing: whoever asks for a block asks for its parents too, so a parent's next use never comes after its
child's. No policy can hit more at this capacity.
"""

from heapq import heappop, heappush
from itertools import chain

from cachestore.replay.trace import Trace

NEVER = 0
"""No use is the next after another at position 0."""


def infinite(trace: Trace) -> int:
    """The hits of a cache that nothing ever leaves: all blocks but the first of each kind."""
    return trace.blocks - trace.nodes


def optimum(trace: Trace, capacity: int) -> int:
    """The most hits that a cache of `capacity` blocks can have on this trace."""
    next_uses = _next_uses(trace)
    kept = bytearray(trace.blocks)
    # positions of the next uses of kept blocks, farthest first; within one request the deepest is the farthest.
    # What has been used since lies before all that has not, so it never comes up again.
    farthest: list[int] = []
    held = hits = begin = 0
    for request in trace.requests:
        end = begin + len(request)
        for position in range(begin, end):
            if kept[position]:
                hits += 1
                held -= 1
            if (later := next_uses[position]) != NEVER:
                kept[later] = True
                held += 1
                heappush(farthest, -later)
        begin = end
        while held > capacity:
            kept[-heappop(farthest)] = False
            held -= 1
    return hits


def _next_uses(trace: Trace) -> list[int]:
    """For every block of every request, in order: the position at which it is used again."""
    uses = list(chain.from_iterable(trace.requests))
    later = [NEVER] * trace.nodes
    next_uses = [NEVER] * len(uses)
    for position in range(len(uses) - 1, -1, -1):
        next_uses[position], later[uses[position]] = later[uses[position]], position
    return next_uses
