"""How a gateway of this machine is: asked for over HTTP, as any client would."""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

SERVING = "SERVING"
"""What a gateway is, in gRPC's word for it, that has somebody to answer."""


class Health(NamedTuple):
    """How a gateway is, and how many requests it has under way, None if it does not tell."""

    said: str
    requests: int | None


def certificate(tables: Mapping[str, Any]) -> str:
    """The path of the certificate that the configured gateway shows; empty without TLS."""
    path = tables.get("gateway", {}).get("tls_cert", "")
    return str(Path(path).expanduser().absolute()) if path else ""


def health(url: str, certificate: str, timeout: float) -> Health:
    """Asks the gateway at `url`, which over TLS must show this very certificate."""
    try:
        with urlopen(f"{url}/health", timeout=timeout, context=_shows(certificate)) as answer:
            return Health(SERVING, json.load(answer)["requests"])
    except HTTPError as error:
        error.close()
        return Health(f"HTTP {error.code}", None)
    except (URLError, OSError) as error:
        untrusted = isinstance(getattr(error, "reason", None), ssl.CertificateError)
        return Health("untrusted" if untrusted else "unavailable", None)


def _shows(certificate: str) -> ssl.SSLContext | None:
    if not certificate:
        return None
    context = ssl.create_default_context(cafile=certificate)
    # it need not be signed by anybody known, nor be for the name by which this machine calls itself
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context
