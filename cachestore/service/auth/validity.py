"""Would a client take this certificate? Asked in a handshake with ourselves, in memory."""

import ssl

from cachestore.errors import ConfigError

_NOT_YET = 9
"""X509_V_ERR_CERT_NOT_YET_VALID: it is mended by waiting, and clocks differ."""


def check_taken(server: ssl.SSLContext, chain: bytes, name: str) -> None:
    """ConfigError, speaking of the setting `name`, if whoever trusts the certificates of `chain` (PEM) would refuse
    what a server with this context shows: because it is over, or is not for servers.

    Neither its host nor its issuer is looked at; that is for clients.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # the certificate vouches for itself: here its issuer is not known
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cadata=chain.decode("ascii", "ignore"))
        asking = client.wrap_bio(to_client, to_server)
        # who asks, who shows, who looks at what was shown; the rest of the handshake would say nothing more
        for end in (asking, server.wrap_bio(to_server, to_client, server_side=True), asking):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        if error.verify_code != _NOT_YET:
            raise ConfigError(
                f"{name}: clients would refuse the certificate: {error.verify_message}; renew it, or give another"
            ) from error
    except ssl.SSLError as error:
        raise ConfigError(f"{name}: no connection could be made with the certificate: {error.reason}") from error
