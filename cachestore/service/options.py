"""gRPC's options for both ends, in one place because they must agree.

A server that allows fewer pings than its clients send answers GOAWAY `too_many_pings`. Without `ping_timeout_ms` a
frozen peer that still has its TCP connection is noticed only after a minute.
"""

from cachestore.service.settings import MAX_MESSAGE

Options = tuple[tuple[str, int | str], ...]

_BOTH: Options = (
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER: Options = (
    *_BOTH,
    # two servers on one port would each get half of the calls
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2_500),
)

CLIENT: Options = (
    *_BOTH,
    ("grpc.initial_reconnect_backoff_ms", 100),
    # also how long one attempt to connect may take
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    # stores of one process do not queue behind each other on one connection
    ("grpc.use_local_subchannel_pool", 1),
)
