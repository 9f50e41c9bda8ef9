"""Channels: with TLS if the credentials name an authority, and without it if they do not; never one for the other."""

import grpc
import grpc.aio

from cachestore.service.address import check_address
from cachestore.service.auth.credentials import SYSTEM, Credentials
from cachestore.service.auth.files import read_private, read_public
from cachestore.service.auth.tls import client_context
from cachestore.service.options import CLIENT, Options


def open_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """A channel to `address`, which connects with its first call.

    ConfigError for what is no address, and for files that cannot be used.
    """
    secure, options = _arguments(address, credentials)
    if secure is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, secure, options=options)


def open_async_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """The same for the event loop that runs."""
    secure, options = _arguments(address, credentials)
    if secure is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, secure, options=options)


def _arguments(address: str, credentials: Credentials) -> tuple[grpc.ChannelCredentials | None, Options]:
    """What the connection is protected with, None for nothing, and gRPC's options."""
    check_address(address)
    if not credentials.tls or address.startswith("unix:"):
        return None, CLIENT
    # gRPC takes files that cannot be used, and says later that nobody answers
    client_context(credentials)
    options: Options = CLIENT
    if credentials.server_name:
        options = (*CLIENT, ("grpc.ssl_target_name_override", credentials.server_name))
    ca = None if credentials.ca == SYSTEM else read_public(credentials.ca, "credentials.ca")
    key = read_private(credentials.key, "credentials.key") if credentials.key else None
    cert = read_public(credentials.cert, "credentials.cert") if credentials.cert else None
    return grpc.ssl_channel_credentials(ca, key, cert), options
