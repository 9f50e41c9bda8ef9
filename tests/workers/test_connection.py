"""Connections to workers: new files of credentials are taken up, and a worker that hangs is given up."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from cachestore.errors import Aborted, Unavailable, Untrusted
from cachestore.service.auth.certificates import make
from cachestore.service.auth.settings import IdentitySettings
from cachestore.service.settings import ServiceSettings
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import PrefillWorkerServicer, add_PrefillWorkerServicer_to_server
from prefill_worker.client import PrefillClient
from prefill_worker.handoff import Progress
from prefill_worker.prompt import Prompt
from prefill_worker.serving import Serving
from tests.service.tls_sides import NAMES, mutual

SERVICE = "cachestore.v1.PrefillWorker"


class Silent(PrefillWorkerServicer):
    """Says one thing, and nothing more until it is told to."""

    def __init__(self) -> None:
        self.over = Event()

    def Prefill(self, _: Any, __: Any) -> Iterator[wire.PrefillResponse]:
        yield wire.PrefillResponse(progress=wire.Progress(tokens=7))
        self.over.wait(20)

    def Stats(self, _: Any, __: Any) -> wire.WorkerStatsResponse:
        return wire.WorkerStatsResponse()


@pytest.fixture
def serve_worker() -> Iterator[Callable[..., Serving]]:
    """Serves a worker that has nothing to say."""
    served: list[Serving] = []
    silent = Silent()

    def make(**settings: Any) -> Serving:
        serving = Serving(
            ServiceSettings(port=0, **settings), "prefill_worker", SERVICE,
            lambda server: add_PrefillWorkerServicer_to_server(silent, server),  # type: ignore[no-untyped-call]
        )  # fmt: skip
        serving.open()
        served.append(serving)
        return serving

    yield make
    silent.over.set()
    for serving in served:
        serving.close(0)


@pytest.mark.parametrize("changed", ["certificate", "authority"])
def test_a_client_takes_new_files_up(
    changed: str, serve_worker: Callable[..., Serving], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, stranger = (make(tmp_path / name, NAMES, ["worker"]) for name in ("own", "strange"))
    shown = {"CA": made.ca, "CERT": made.cert("worker"), "KEY": made.key("worker")}
    names = ("CERT", "KEY") if changed == "certificate" else ("CA",)
    for name, path in shown.items():
        ours = tmp_path / name
        ours.touch(mode=0o600)
        ours.write_bytes((stranger.folder / path.name if name in names else path).read_bytes())
        monkeypatch.setenv(f"CACHESTORE_{name}", str(ours))
    known = (IdentitySettings("worker", "delegate", certificate="worker"),)
    serving = serve_worker(**mutual(made), identities=known)
    with PrefillClient(serving.address) as client:
        with pytest.raises(Untrusted):
            client.stats()
        for name in names:
            (tmp_path / name).write_bytes(shown[name].read_bytes())
        # the call that finds out may still fail
        with suppress(Unavailable):
            client.stats()
        assert client.stats() == []


def test_silence_ends_all_that_is_asked_over_the_connection(serve_worker: Callable[..., Serving]) -> None:
    with PrefillClient(serve_worker().address) as client:
        patient = client.prefill(Prompt([5]), bytes(32), timeout=20)
        impatient = client.prefill(Prompt([5]), bytes(32), timeout=20, silence=0.3)
        heard, begun = iter(impatient), time.monotonic()
        assert next(iter(patient)) == next(heard) == Progress(7)
        for answers in (heard, iter(patient)):
            with pytest.raises(Unavailable):
                next(answers)
        assert 0.3 <= time.monotonic() - begun < 0.3 + 1.0
        # which is made anew
        assert client.stats() == []


def test_cancelling_ends_it_here(serve_worker: Callable[..., Serving]) -> None:
    with PrefillClient(serve_worker().address) as client:
        with client.prefill(Prompt([5]), bytes(32), timeout=20) as answers:
            assert next(iter(answers)) == Progress(7)
        with pytest.raises(Aborted, match="cancelled here"):
            list(answers)
