"""What a caller must be to call a method. A method that is not here is refused to everybody."""

from cachestore.service.auth.identity import Role

OURS = "/cachestore.v1."
"""Begins the methods of our own contract."""

HEALTH = "/grpc.health.v1.Health/Check"
"""Who asks for the whole server, naming no service, may be anybody: what restarts or balances servers has no identity,
and learns little more than a connection attempt would tell it."""

ON_BEHALF = frozenset(
    {
        "/cachestore.v1.PrefillWorker/Prefill",
        "/cachestore.v1.PrefillWorker/Abort",
        "/cachestore.v1.PrefillWorker/Stats",
        "/cachestore.v1.DecodeWorker/Generate",
        "/cachestore.v1.DecodeWorker/Abort",
        "/cachestore.v1.DecodeWorker/Stats",
    }
)
"""Methods of workers: a delegate calls them as itself, also where it says for which tenant."""

TAKE = "/cachestore.v1.Operation/Take"

OF_PEERS = frozenset(
    [*(f"/cachestore.v1.CacheStore/{method}" for method in ("Lookup", "Read", "Release", "Delete", "Clear")), TAKE]
)
"""What another node may ask of this one, in any namespace; it may call nothing else."""

LEAST_ROLE: dict[str, Role] = {
    HEALTH: Role.reader,
    "/grpc.health.v1.Health/List": Role.reader,
    "/grpc.health.v1.Health/Watch": Role.reader,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.reader,
    **{
        f"/cachestore.v1.CacheStore/{method}": role
        for role, methods in {
            Role.reader: "Lookup Read Lease Release ListPins Stats Watch Attach ClusterMap",
            Role.writer: "Write Abort Pin Unpin Delete",
            # whoever is in the cluster map is asked to compute, and so sees prompts
            Role.delegate: "Register",
            Role.admin: "Clear",
        }.items()
        for method in methods.split()
    },
    **dict.fromkeys(
        (TAKE, *(f"/cachestore.v1.Operation/{method}" for method in ("Node", "Drain", "Rebalance", "Forget"))),
        Role.admin,
    ),
    # workers act for whichever tenant a call names: only what stands before them may call
    **dict.fromkeys(ON_BEHALF, Role.delegate),
}

WITHOUT_NAMESPACE = frozenset(
    {
        "/cachestore.v1.CacheStore/ClusterMap",
        "/cachestore.v1.CacheStore/Register",
        *(method for method in LEAST_ROLE if not method.startswith(f"{OURS}CacheStore/")),
    }
)
"""What touches nobody's blocks, so that a delegate may call it for itself."""
