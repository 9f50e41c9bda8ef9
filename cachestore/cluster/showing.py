"""What a node shows to others of its directory, looked at before it starts: a call would say late what is missing."""

from cachestore.cluster.peer_settings import PeerSettings
from cachestore.errors import ConfigError
from cachestore.service.auth.tls import client_context

_HERE = "127.0.0.1:0"


def check(settings: PeerSettings) -> None:
    """ConfigError for files, of `peers.credentials` or the environment, that cannot be used here."""
    shown = settings.credentials.credentials()
    try:
        if shown.tls:
            client_context(shown)
        shown.metadata(_HERE)
    except ConfigError as error:
        raise ConfigError(f"peers.{error}") from error
