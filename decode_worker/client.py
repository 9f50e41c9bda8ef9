"""A decode worker somewhere else."""

import secrets
from collections.abc import Iterable, Iterator, Sequence

from cachestore.engine.sampling import Sampling
from cachestore.service.stream.watchdog import Watched
from cachestore.wire.worker_pb2_grpc import DecodeWorkerStub
from decode_worker.request import Request, Usage, answer, request_message
from prefill_worker.connection import WorkerConnection
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.token import Token
from prefill_worker.worker_client import Answers, WorkerClient

GENERATE_TIMEOUT = 300.0


class Answer(Answers[Token | Usage]):
    """The token ids of one request as they come; `tokens` are those so far, `usage` is there behind the last one."""

    def __init__(self, connection: WorkerConnection, call: Watched, request_id: str) -> None:
        super().__init__(connection, "Generate", call, answer, request_id)
        self.tokens: list[Token] = []
        self.usage: Usage | None = None

    def __iter__(self) -> Iterator[int]:
        for what in self.received():
            if isinstance(what, Usage):
                self.usage = what
            else:
                self.tokens.append(what)
                yield what.id


class DecodeClient(WorkerClient):
    """The decode worker at `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(address, DecodeWorkerStub)

    def generate(
        self,
        tokens: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        stop_tokens: Iterable[int] = (),
        logprobs: int | None = None,
        cache: CacheUse = CacheUse.READ_AND_WRITE,
        salts: Sequence[bytes] = (),
        request_id: str = "",
        timeout: float = GENERATE_TIMEOUT,
        tenant: str = "",
    ) -> Answer:
        """Asks for tokens behind `tokens`; errors are raised where the answer is read.

        A delegate names with `tenant` whom it acts for: the token of it, where it is not among its credentials.
        """
        prompt = Prompt(tokens, sampling or Sampling(), cache, tuple(salts))
        request_id = request_id or secrets.token_hex(16)
        message = request_message(Request(prompt, max_tokens, frozenset(stop_tokens), logprobs), request_id)
        return Answer(self._connection, self._connection.stream("Generate", message, timeout, tenant), request_id)
