"""What would a cache of so many blocks have hit on a trace of real requests?

Requests come one after the other, in the order of the trace; nobody waits for their times. Of each request

1. the **hits** are its leading blocks, up to the first that is not present; they are read, and stay until 4;
2. blocks that are not present are new; of a request longer than the capacity, only its first `capacity` blocks count;
3. leaves of the prefix tree leave, as the policy says, until there is room for the new ones;
4. the new ones come in, the root first.

A **hit rate** is hits divided by the blocks of all requests. Three yardsticks stand beside it:

    lru       the policy `lru` alone, at the same capacity
    optimum   the most that any choice of leaves can hit at this capacity, the future known (see `yardsticks`)
    infinite  nothing ever leaves

The **gap** closed is (hit rate - lru) / (optimum - lru): 0 is as good as LRU, 1 as good as can be.

`alone` replays against the policy, `through` against a whole store, which has to give every block back as it was put.
"""
