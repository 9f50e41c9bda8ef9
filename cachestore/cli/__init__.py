"""The command line: the composition root, above everything it puts together.

serve    one store in this process, without Ray
up/down  store and workers on Ray
stats, lookup, clear
pin, unpin, pins
nodes, drain, rebalance: the nodes of a cluster, and how one leaves it
health   does it serve, and which of its tiers and paths do?
doctor   does this installation work, and do two stores agree?
config   check and show
certs    certificates for trying TLS out
token    who a caller is
replay   what would policies and tiers have hit on a trace?
demo     all of it, on real input
"""

import os
from typing import Any


def main() -> Any:
    """Runs a command. Errors are one line on standard error: exit status 2 for configuration, else 1."""
    # what libraries log of their own, such as a port in use, is said by our errors; they look when they are imported
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from cachestore.cli.app import run

    return run()
