"""The row of `serving.py` about the gateway: what does it add to what Ray Serve and FastAPI take by themselves?

Two applications run under one Ray Serve, in the same run: the gateway, before a decode worker that answers at once, and
a bare FastAPI echo. Requests alternate between them over connections that stay open, so that whatever else the machine
does falls on both alike. The row is the median time of a completion less the median time of the echo. The worker here
is a stand-in that computes nothing, so what is measured is the gateway and one hop of gRPC, and no model; what a call
to the stand-in takes without the gateway is reported beside.
"""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
from report import Report

from cachestore.cluster.gateways import add_gateway, start_proxy
from cachestore.cluster.runtime import Runtime
from cachestore.cluster.settings import ClusterSettings
from cachestore.engine.model import model_spec
from cachestore.engine.settings import EngineSettings
from cachestore.hashing import fingerprint
from cachestore.service.client import RemoteStore
from cachestore.service.members import Member
from cachestore.service.options import SERVER
from cachestore.service.server import CacheStoreServer
from cachestore.service.settings import ServiceSettings
from cachestore.store.compose import compose
from cachestore.wire import worker_pb2 as wire
from cachestore.wire.worker_pb2_grpc import DecodeWorkerServicer, add_DecodeWorkerServicer_to_server
from decode_worker.client import DecodeClient

if TYPE_CHECKING:
    from serving import Options

BAR, REACH = 3.0, 1.5
TOKENS = 8
MODEL = Path(__file__).parents[1] / "examples" / "needle" / "model"


class AtOnce(DecodeWorkerServicer):
    """A decode worker that computes nothing."""

    def Generate(self, request: wire.GenerateRequest, context: grpc.ServicerContext) -> Iterator[wire.GenerateResponse]:
        """As many tokens as are asked for."""
        for index in range(request.max_tokens):
            yield wire.GenerateResponse(token=wire.Token(id=10 + index, index=index))
        usage = wire.Usage(prompt_tokens=len(request.tokens), generated_tokens=request.max_tokens, finish="length")
        yield wire.GenerateResponse(usage=usage)


def beside(spec: bytes, ready: Connection) -> None:
    """A store and that worker, known in its cluster map, until the other end of `ready` closes."""
    # as a worker's: another one would end connections for their pings
    server = grpc.server(ThreadPoolExecutor(8), options=SERVER)
    add_DecodeWorkerServicer_to_server(AtOnce(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with compose({"tiers": [{"name": "cpu", "capacity": "64MiB"}]}) as store:
        with CacheStoreServer(store, ServiceSettings(port=0)) as served, RemoteStore(served.address) as remote:
            member = Member("decode", "at-once", f"127.0.0.1:{port}", "local", bytes(16), fingerprint=spec)
            remote.register(member, 3600.0)
            ready.send(served.address)
            try:
                ready.recv()
            except EOFError:
                server.stop(0)


@contextmanager
def worker(spec: bytes) -> Iterator[str]:
    """The store's address, in another process."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=beside, args=(spec, theirs))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def add_echo(serve: Any) -> None:
    """A FastAPI application that answers with what it was sent."""
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

    class Echo:
        def __serve_build_asgi_app__(self) -> FastAPI:
            app = FastAPI()

            @app.post("/")
            async def echo(request: Request) -> Response:
                return Response(await request.body(), media_type="application/json")

            return app

    deployment = serve.deployment(name="echo", ray_actor_options={"num_cpus": 0})(serve.ingress()(Echo))
    serve.run(deployment.bind(), name="cachestore-echo", route_prefix="/echo")


def asked(address: str) -> float:
    """Milliseconds of one generation of the stand-in, asked for without the gateway: median of a hundred."""
    took = []
    with RemoteStore(address) as store:
        (member,) = store.members("decode")[1]
    with DecodeClient(member.address) as client:
        for _ in range(100):
            begun = time.perf_counter()
            list(client.generate([1] * 64, max_tokens=TOKENS))
            took.append(1000 * (time.perf_counter() - begun))
    return statistics.median(took)


def timed(client: httpx.Client, path: str, body: dict[str, Any]) -> float:
    """Milliseconds of one request."""
    begun = time.perf_counter()
    client.post(path, json=body).raise_for_status()
    return 1000 * (time.perf_counter() - begun)


def measure(report: Report, options: "Options") -> None:
    """Row `serving.gateway_ms`, and what it is the difference of."""
    rounds = 100 if options.quick else 1000
    engine = EngineSettings(str(MODEL))
    settings = ClusterSettings(prefill=0, decode=0)
    tables: dict[str, Any] = {"engine": {"model": engine.model}, "gateway": {"port": 0, "served_model": "needle"}}
    body = {"model": "needle", "prompt": "What is in the garden? " * 8, "max_tokens": TOKENS, "temperature": 0}
    gateway: list[float] = []
    echo: list[float] = []
    with worker(fingerprint(model_spec(engine))) as store, Runtime(settings):
        url = start_proxy(tables)
        from ray import serve

        add_gateway(tables, settings, [store], lambda _: None)
        add_echo(serve)
        with httpx.Client(base_url=url, timeout=30) as client:
            for number in range(rounds + 50):
                took = timed(client, "/v1/completions", body), timed(client, "/echo/", body)
                if number >= 50:
                    gateway.append(took[0])
                    echo.append(took[1])
        serve.shutdown()
        alone = asked(store)
    ours, theirs = statistics.median(gateway), statistics.median(echo)
    report.add("serving.gateway_ms", ours - theirs, "ms", "lower", bar=BAR, reach=REACH)
    report.add("serving.gateway_request_ms", ours, "ms", "lower")
    report.add("serving.echo_request_ms", theirs, "ms", "lower")
    report.add("serving.gateway_stand_in_ms", alone, "ms", "lower")
