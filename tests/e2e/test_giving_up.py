"""Requests that are aborted, cancelled, refused or late leave nothing behind."""

import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from cachestore.engine.sampling import Sampling
from cachestore.errors import Aborted, DeadlineExceeded, InvalidArgument, Mismatch, TooLarge
from cachestore.hashing import chain, fingerprint
from cachestore.metrics import total
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerStub, PrefillWorkerStub
from prefill_worker.prompt import CacheUse, Prompt
from prefill_worker.token import Token

LONG = 6000


def queue(client: Any) -> int:
    return total(client.stats(), "queue")


def test_a_client_that_leaves_stops_the_work(
    empty: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    failed = empty.counted("requests_failed")
    tokens = make_prompt(50, 31)
    # a seed whose tokens contain no end token for long enough
    with empty.decode.generate(tokens, max_tokens=5000, sampling=Sampling(temperature=1.0, seed=3)) as answer:
        first = next(iter(answer))
        assert queue(empty.decode) == 1
    assert first == empty.expected(tokens, 1, Sampling(temperature=1.0, seed=3))[0]
    wait_until(lambda: queue(empty.decode) == 0)
    assert empty.counted("requests_failed") == failed + 1
    empty.at_rest()


def test_abort_of_a_generation(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    answer = empty.decode.generate(make_prompt(50, 32), max_tokens=5000, request_id="abort me")
    tokens = iter(answer)
    next(tokens)
    with pytest.raises(InvalidArgument, match="request_id"):
        list(empty.decode.generate([5], max_tokens=1, request_id="abort me"))
    assert empty.decode.abort("abort me")
    with pytest.raises(Aborted):
        list(tokens)
    assert not empty.decode.abort("abort me")
    assert queue(empty.decode) == 0


def prefilling(trio: Any, tokens: list[int], **more: Any) -> "tuple[threading.Thread, list[BaseException]]":
    """A long prefill under way in a thread of its own, and what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            list(trio.prefill.prefill(Prompt(tokens), fingerprint(trio.engine.spec), **{"timeout": 30.0, **more}))
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_abort_of_a_prefill_frees_its_put(
    empty: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    tokens = make_prompt(LONG, 33)
    thread, raised = prefilling(empty, tokens, request_id="long")
    wait_until(lambda: total(empty.store.stats(), "puts_open") == 1)
    assert empty.prefill.abort("long")
    thread.join(10)
    assert [type(error) for error in raised] == [Aborted]
    assert queue(empty.prefill) == 0
    empty.at_rest()


def test_the_deadline_of_a_prefill_ends_it(
    empty: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    thread, raised = prefilling(empty, make_prompt(LONG, 34), timeout=0.2)
    thread.join(10)
    assert [type(error) for error in raised] == [DeadlineExceeded]
    wait_until(lambda: queue(empty.prefill) == 0)
    empty.at_rest()


def test_nobody_takes_the_handoff(
    empty: Any, make_prompt: Callable[..., list[int]], wait_until: Callable[..., None]
) -> None:
    prompt = Prompt(make_prompt(60, 39))
    with empty.prefill.prefill(prompt, fingerprint(empty.engine.spec), timeout=30) as answers:
        # the worker has all but handed over when nobody listens any more
        assert any(isinstance(told, Token) for told in answers)
    wait_until(lambda: queue(empty.prefill) == 0)
    empty.at_rest()


def test_finish_ends_a_generation_well(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    sampling = Sampling(temperature=1.0, seed=2)
    tokens = make_prompt(50, 40)
    answer = empty.decode.generate(tokens, max_tokens=5000, sampling=sampling, request_id="finish me")
    first = [token for _, token in zip(range(20), answer, strict=False)]
    assert empty.decode.abort("finish me", finish=True)
    made = first + list(answer)
    assert made == empty.expected(tokens, len(made), sampling)
    assert answer.usage is not None and answer.usage.finish == "stop" and answer.usage.generated_tokens == len(made)
    # what it made is stored
    assert empty.store.lookup(chain(empty.engine.spec, [*tokens, *made[:-1]])).ready == (49 + len(made)) // 16


@pytest.mark.parametrize(
    ("field", "tokens", "more"),
    [
        ("tokens must not be empty", [], {}),
        (r"tokens\[1\] must lie in 0 .. 96", [5, 97, 5], {}),
        ("max_tokens", [5], {"max_tokens": 0}),
        ("stop_tokens", [5], {"stop_tokens": [97]}),
        ("salts", [5], {"salts": [b""]}),
        ("logprobs", [5], {"logprobs": 21}),
        ("request_id", [5], {"request_id": "x" * 200}),
    ],
)
def test_what_cannot_be_meant(field: str, tokens: list[int], more: dict[str, Any], empty: Any) -> None:
    with pytest.raises(InvalidArgument, match=field):
        list(empty.decode.generate(tokens, **{"max_tokens": 4, **more}))


def test_longer_than_the_model(empty: Any) -> None:
    with pytest.raises(TooLarge, match="8192"):
        list(empty.decode.generate([5] * 8193, max_tokens=1))


def test_messages_that_no_client_of_ours_sends(empty: Any) -> None:
    print_of_spec = fingerprint(empty.engine.spec)
    with grpc.insecure_channel(empty.decode_child.address) as channel:
        stub = DecodeWorkerStub(channel)  # type: ignore[no-untyped-call]
        for field, request in (
            ("cache", wire.GenerateRequest(request_id="a", tokens=[5], max_tokens=1, cache=7)),
            ("request_id", wire.GenerateRequest(tokens=[5], max_tokens=1)),
            ("temperature", wire.GenerateRequest(request_id="a", tokens=[5], sampling={"temperature": -1.0})),
            ("seed", wire.GenerateRequest(request_id="a", tokens=[5], sampling={"seed": 1 << 63})),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                list(stub.Generate(request, timeout=10))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT and field in raised.value.details()
    with grpc.insecure_channel(empty.prefill_child.address) as channel:
        stub = PrefillWorkerStub(channel)  # type: ignore[no-untyped-call]
        for code, word, request in (
            (grpc.StatusCode.INVALID_ARGUMENT, "fingerprint", wire.PrefillRequest(request_id="a", tokens=[5])),
            (
                grpc.StatusCode.FAILED_PRECONDITION,
                "another spec",
                wire.PrefillRequest(request_id="a", tokens=[5], fingerprint=bytes(32)),
            ),
            (
                grpc.StatusCode.INVALID_ARGUMENT,
                "OFF",
                wire.PrefillRequest(request_id="a", tokens=[5], fingerprint=print_of_spec, cache=wire.OFF),
            ),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                list(stub.Prefill(request, timeout=10))
            assert raised.value.code() is code and word in raised.value.details()
    assert len(empty.ask([5, 6, 7], 1)[0]) == 1


def test_a_client_of_another_spec_is_told(empty: Any) -> None:
    with pytest.raises(Mismatch, match="another spec"):
        list(empty.prefill.prefill(Prompt([5]), bytes(32), timeout=10))
    with pytest.raises(InvalidArgument, match="OFF"):
        list(empty.prefill.prefill(Prompt([5], cache=CacheUse.OFF), fingerprint(empty.engine.spec), timeout=10))


def test_stop_tokens_and_the_models_limit(empty: Any, make_prompt: Callable[..., list[int]]) -> None:
    tokens = make_prompt(20, 36)
    made, usage = empty.ask(tokens, 12)
    assert usage.finish == "length" and len(set(made)) > 3
    stopped, usage = empty.ask(tokens, 12, stop_tokens=[made[4]])
    assert stopped == made[: made.index(made[4]) + 1] and usage.finish == "stop"
    only, usage = empty.ask(tokens, 1)
    assert only == made[:1] and usage.loaded_tokens == 0
    full = make_prompt(8190, 37)
    assert len(empty.ask(full, 10)[0]) == 3
