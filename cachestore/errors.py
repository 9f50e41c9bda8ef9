"""What can go wrong, in one small tree.

    CacheStoreError
    ├── ConfigError         a setting is unknown or cannot work; found at start
    ├── InvalidArgument     the caller's argument cannot be meant
    │   └── TooLarge        no tier could ever hold it
    ├── UnsupportedModel    the model's KV cannot be named by a spec
    ├── Mismatch            two sides disagree on spec, format or protocol
    ├── LeaseExpired        the lease is unknown, released or over
    ├── Unauthenticated     the store does not know the caller
    ├── PermissionDenied    the store knows the caller, and does not let it do this
    ├── Overloaded          a quota or a bound on concurrent work is reached
    ├── Unavailable         the store, a tier or a worker cannot be reached now
    │   ├── DurabilityUnmet a DURABLE put found no durable tier to acknowledge it
    │   └── Untrusted       the two sides cannot agree on TLS
    ├── DeadlineExceeded    the call's time is over
    ├── Aborted             the call was given up by its caller or must be restarted
    └── InternalError       our bug; the text is an opaque id, the log has the rest

A miss is a value, never an exception. A corrupt block is a miss and a counter, never an exception.
"""


class CacheStoreError(Exception):
    """Root of the tree. `reason` is the stable word sent as the `kv-reason` trailer.

    `retryable` says whether the same call may succeed if repeated (puts are idempotent by key).
    """

    reason = "error"
    retryable = False


class ConfigError(CacheStoreError):
    """A setting is unknown or cannot work."""

    reason = "config"


class InvalidArgument(CacheStoreError):
    """The caller's argument cannot be meant: wrong length, unknown name, empty where it may not be."""

    reason = "invalid_argument"


class TooLarge(InvalidArgument):
    """Larger than any tier, message or model may take."""

    reason = "too_large"


class UnsupportedModel(CacheStoreError):
    """The model's KV cannot be named by a spec, so it must not be stored."""

    reason = "unsupported_model"


class Mismatch(CacheStoreError):
    """Two sides disagree on spec, format or protocol."""

    reason = "mismatch"


class LeaseExpired(CacheStoreError):
    """The lease is unknown, already released, or its time is over."""

    reason = "lease_expired"


class Unauthenticated(CacheStoreError):
    """The store does not know the caller: no token or certificate, or none that holds."""

    reason = "unauthenticated"


class PermissionDenied(CacheStoreError):
    """The store knows the caller, and its role does not let it do this."""

    reason = "permission_denied"


class Overloaded(CacheStoreError):
    """A quota or a bound on concurrent work is reached; try again later."""

    reason = "overloaded"
    retryable = True


class Unavailable(CacheStoreError):
    """The store, a tier or a worker cannot be reached now."""

    reason = "unavailable"
    retryable = True


class DurabilityUnmet(Unavailable):
    """A DURABLE put found no durable tier that could acknowledge it."""

    reason = "durability_unmet"


class Untrusted(Unavailable):
    """No connection that both sides trust: one speaks no TLS, or does not accept the other's certificate.

    To the engine the store is just not there; but trying again does not help.
    """

    reason = "untrusted"
    retryable = False


class DeadlineExceeded(CacheStoreError):
    """The call's time is over."""

    reason = "deadline"


class Aborted(CacheStoreError):
    """The call was given up by its caller, or a resume no longer fits and must restart."""

    reason = "aborted"


class InternalError(CacheStoreError):
    """A bug of ours. The text is an opaque id; the server's log has the rest."""

    reason = "internal"
