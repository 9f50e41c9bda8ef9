"""What went wrong on another process, out of the traceback that Ray puts into its errors."""

from cachestore import errors
from cachestore.errors import CacheStoreError, Unavailable

_OURS = "cachestore.errors."


def cause(text: str, what: str) -> CacheStoreError:
    """The error to raise here for `what`: of the kind that was raised there if it is one of ours, else Unavailable."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        kind, _, message = line.removeprefix(_OURS).partition(": ")
        if line.startswith(_OURS) and hasattr(errors, kind):
            error: CacheStoreError = getattr(errors, kind)(f"{what}: {message}")
            return error
    return Unavailable(f"{what}: {lines[-1] if lines else 'Ray does not say why'}")
