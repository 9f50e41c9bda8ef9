"""TLS of the gateway's port, from files that may change while it listens."""

import ssl
from dataclasses import dataclass, field

from cachestore.errors import ConfigError
from cachestore.service.auth.tls import ServerTls
from cachestore.service.settings import ServiceSettings
from gateway.settings import GatewaySettings


@dataclass(eq=False)
class GatewayTls:
    """The certificate and key of `settings`. What is in the files when a connection begins is what it is shown."""

    settings: GatewaySettings
    _files: ServerTls = field(init=False)

    def __post_init__(self) -> None:
        self._files = ServerTls(ServiceSettings(tls_cert=self.settings.tls_cert, tls_key=self.settings.tls_key))

    def open(self) -> None:
        """Reads the files. ConfigError if they cannot be used, or if others may read the key."""
        try:
            self._files.open()
        except ConfigError as error:
            raise ConfigError(str(error).replace("service.tls_", "gateway.tls_")) from error

    def context(self) -> ssl.SSLContext:
        """For a server that asks once."""
        context = self._files.context()

        def newest(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.context = self._files.context()

        # called at the start of every handshake, also where the client names no server
        context.sni_callback = newest
        return context
