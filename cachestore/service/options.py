"""gRPC's options for both ends, in one place because they must agree.

A server that allows fewer pings than its clients send answers GOAWAY `too_many_pings`. Without `ping_timeout_ms` a
frozen peer that still has its TCP connection is noticed only after a minute.
"""

from cachestore.service.settings import MAX_MESSAGE

Options = tuple[tuple[str, int | str], ...]

MAX_METADATA = 16 << 10
"""Bytes of what comes beside a call's messages: tokens, and what proxies add."""

_BOTH: Options = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # between the two gRPC would refuse some calls, by chance
    ("grpc.max_metadata_size", MAX_METADATA),
    ("grpc.absolute_max_metadata_size", MAX_METADATA),
    ("grpc.keepalive_timeout_ms", 1_500),
    ("grpc.http2.ping_timeout_ms", 1_500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER: Options = (
    *_BOTH,
    ("grpc.keepalive_time_ms", 5_000),
    # two servers on one port would each get half of the calls
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
)

CLIENT: Options = (
    *_BOTH,
    # with the ping's time-out and one attempt to connect anew, how long a frozen store can go unnoticed
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # also how long one attempt to connect may take
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    # stores of one process do not queue behind each other on one connection
    ("grpc.use_local_subchannel_pool", 1),
)
