"""Who calls. The namespace comes from the authenticated identity, never from a request."""

import grpc

DEFAULT_NAMESPACE = "default"


def namespace_of(context: grpc.ServicerContext) -> str:
    """The namespace of this call's caller. Until authentication exists everyone is in the same one."""
    return DEFAULT_NAMESPACE
