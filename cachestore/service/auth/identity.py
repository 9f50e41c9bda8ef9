"""Who calls. Namespace and role come from the authenticated identity, never from a request."""

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

from cachestore.errors import PermissionDenied, Unauthenticated

DEFAULT_NAMESPACE = "default"


class Role(IntEnum):
    """What a caller may do; each may do what those before it may, but for a `peer`.

    A `peer` is another node of the same store: it reads and removes what is on this node, in whatever namespace it
    names, and may do nothing else. A `reader` looks blocks up and reads them, a `writer` also puts, pins and deletes
    them. A `delegate` is a worker: it joins the cluster map, is called by other workers, and acts for the tenant whose
    token it brings. An `admin` clears the namespace and sees everything.
    """

    peer = 0
    reader = 1
    writer = 2
    delegate = 3
    admin = 4


@dataclass(frozen=True)
class Identity:
    """A caller that is known. A delegate without a tenant has no namespace: it is empty. A peer's is an id in hex.

    `expires`, in seconds since 1970, is when what it showed ends: what outlives the call must end then. `tenant` is the
    token that a delegate showed for whom it acts, and that a worker shows for the same tenant; else empty.
    """

    name: str
    namespace: str
    role: Role
    expires: float = field(default=math.inf, compare=False)
    tenant: str = field(default="", compare=False, repr=False)


LOCAL = Identity("local", DEFAULT_NAMESPACE, Role.admin)
"""Everybody who reaches a store that names no identities: whoever is on this machine."""

_ATTRIBUTE = "cachestore_identity"


def identify(context: "grpc.ServicerContext", identity: Identity) -> None:
    """Says who makes this call; the guard does, before anything else sees it."""
    setattr(context, _ATTRIBUTE, identity)


def identity_of(context: "grpc.ServicerContext") -> Identity:
    """Who makes this call. Unauthenticated if the call did not pass the guard."""
    identity = getattr(context, _ATTRIBUTE, None)
    if not isinstance(identity, Identity):
        raise Unauthenticated("nobody has said who makes this call")
    return identity


def namespace_of(context: "grpc.ServicerContext") -> str:
    """The namespace of this call's caller. PermissionDenied for a delegate that brings no tenant's token."""
    identity = identity_of(context)
    if identity.role is Role.peer:
        raise PermissionDenied(f"{identity.name} is another node of this store, which reads and removes blocks only")
    if not identity.namespace:
        raise PermissionDenied(f"{identity.name} is a delegate and acts only for a tenant: send the tenant's token too")
    return identity.namespace
