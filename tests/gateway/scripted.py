"""Decode workers on the wire that compute nothing: a token depends on its position alone.

Each ends its answers as it is told, as real ones cannot be made to at a given token.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerServicer, add_DecodeWorkerServicer_to_server
from tests.gateway.conftest import byte_tokenizer

WORDS = byte_tokenizer()
TALE = "Once upon a time there was a store of caches, and it kept them all."
PROMPT = WORDS.encode("x" * 40)
COUNT = len(TALE)


@dataclass(eq=False)
class Scripted(DecodeWorkerServicer):
    """Ends the answer number i as `ends[i]` says, after so many tokens; beyond them it goes on to the end."""

    ends: Sequence[tuple[int, str]] = ()
    asked: list[wire.GenerateRequest] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        number = len(self.asked)
        self.asked.append(request)
        lasts, how = self.ends[number] if number < len(self.ends) else (request.max_tokens, "")
        tale = WORDS.encode(TALE)
        for index in range(request.max_tokens):
            if how == "finish" and index >= lasts:
                # as a worker does that has to be told
                while request.request_id not in self.finished and context.is_active():
                    time.sleep(0.005)
                yield wire.GenerateResponse(usage=wire.Usage(finish="stop"))
                return
            if index == lasts:
                self._end(how, context)
                return
            at = len(request.tokens) - len(PROMPT) + index
            token = wire.Token(id=tale[at % COUNT], index=index, logprob=-0.5 * at)
            if not index:
                token.reuse.reused_tokens["cpu"] = len(request.tokens) - 1
            yield wire.GenerateResponse(token=token)
        yield wire.GenerateResponse(usage=wire.Usage(finish="length"))

    def Abort(self, request: wire.AbortWorkRequest, context: grpc.ServicerContext) -> wire.AbortWorkResponse:
        assert request.finish
        self.finished.append(request.request_id)
        return wire.AbortWorkResponse(found=True)

    def _end(self, how: str, context: grpc.ServicerContext) -> None:
        if how == "silent":
            while context.is_active():
                time.sleep(0.01)
        elif how == "away":
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        elif how == "full":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        elif how == "bug":
            context.set_trailing_metadata((("kv-reason", "internal"),))
            context.abort(grpc.StatusCode.INTERNAL, "internal error 1; the log has the rest")
        elif how == "aborted":
            context.abort(grpc.StatusCode.ABORTED, "closing")


@contextmanager
def serving(worker: Scripted) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_DecodeWorkerServicer_to_server(worker, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
