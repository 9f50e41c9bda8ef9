"""Which decode worker computes a request?

prefix_load   where the longest prefix is and the queue is short, weighed against each other (the default)
sticky        always the same one for the same beginning, by rendezvous hashing
least_loaded  the one with the shortest queue
"""

from cachestore.registry import Catalogue

ROUTINGS = Catalogue(
    "routing",
    {
        "prefix_load": "gateway.routing.prefix_load:PrefixLoad",
        "sticky": "gateway.routing.sticky:Sticky",
        "least_loaded": "gateway.routing.least_loaded:LeastLoaded",
    },
)
