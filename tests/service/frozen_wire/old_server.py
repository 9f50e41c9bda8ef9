"""A store that speaks as one of the previous version does: what was added to the wire since, it neither hears nor says.

It is a store of today behind a relay that takes from every message what its time did not know, both ways, and has no
method that came later.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass

from cachestore.service.options import CLIENT, SERVER
from tests.service.frozen_wire.frozen import METHODS, known

THREADS = 32


class Relay(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The methods of that time, each passed on over `channel`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def service(self, details: Any) -> Any:
        """The handler of one call; None, which is UNIMPLEMENTED, for what came later."""
        service, _, name = details.method.lstrip("/").partition("/")
        if service != "cachestore.v1.CacheStore" or name not in METHODS:
            return None
        method = METHODS[name]
        asked, answered = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        if not method.server_streaming:

            def one(request: bytes, context: grpc.ServicerContext) -> bytes:
                with passed_on(context):
                    call = self._channel.unary_unary(details.method)
                    return known(call(known(request, asked), **_beside(context)), answered)
                raise AssertionError

            return grpc.unary_unary_rpc_method_handler(one)

        def many(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            if method.client_streaming:
                begin, argument = self._channel.stream_stream, (known(each, asked) for each in request)
            else:
                begin, argument = self._channel.unary_stream, known(request, asked)
            with passed_on(context):
                call = begin(details.method)(argument, **_beside(context))
                if not context.add_callback(call.cancel):
                    call.cancel()
                for answer in call:
                    # what is wholly unknown was never sent then
                    if told := known(answer, answered):
                        yield told

        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(many)
        return grpc.unary_stream_rpc_method_handler(many)


@contextmanager
def passed_on(context: grpc.ServicerContext) -> Iterator[None]:
    """A failure of the call inside is that of this one."""
    try:
        yield
    except grpc.RpcError as error:
        context.set_trailing_metadata(error.trailing_metadata() or ())
        context.abort(error.code(), error.details())


@contextmanager
def old_server(address: str) -> Iterator[str]:
    """Where the store at `address` speaks as one of the previous version."""
    with grpc.insecure_channel(address, options=CLIENT) as channel, ThreadPoolExecutor(THREADS) as threads:
        server = grpc.server(threads, handlers=(Relay(channel),), options=SERVER)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def _beside(context: grpc.ServicerContext) -> dict[str, Any]:
    ours = ("user-agent", "grpc-")
    metadata = [(key, value) for key, value in context.invocation_metadata() if not key.startswith(ours)]
    return {"timeout": context.time_remaining(), "metadata": metadata}
