"""The two sides of a TLS connection: what a server is set to, and what a client trusts and shows."""

from cachestore.service.auth.certificates import Made
from cachestore.service.auth.credentials import Credentials

NAMES = ("localhost", "127.0.0.1")


def one_way(made: Made) -> dict[str, str]:
    return {"tls_cert": str(made.cert()), "tls_key": str(made.key())}


def mutual(made: Made) -> dict[str, str]:
    return {**one_way(made), "client_ca": str(made.ca)}


def trusting(made: Made, **more: str) -> Credentials:
    return Credentials(ca=str(made.ca), **more)


def showing(made: Made, shown: Made, name: str = "alice") -> Credentials:
    return trusting(made, cert=str(shown.cert(name)), key=str(shown.key(name)))
