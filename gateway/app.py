"""The HTTP side: who asks is known before anything is read, and every failure is OpenAI's error object."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway import answers, prompts
from gateway.answers import Chats, Completions
from gateway.conversation import Conversation
from gateway.errors import ApiError, api_error
from gateway.figures import exposition
from gateway.gateway import Gateway
from gateway.keys import Asker
from gateway.requests import ChatRequest, CompletionRequest
from gateway.streaming import Events, EventStream, Pieces
from gateway.text import Piece

T = TypeVar("T")

CLOSED = 499
"""Status of an answer that nobody waits for; it is never sent."""

BODY_SECONDS = 30.0
"""How long a body may take to come: whoever stands still must not keep a place for ever."""


def create_app(gateway: Gateway) -> FastAPI:
    """The application, which opens and closes `gateway`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.open()
        try:
            yield
        finally:
            await gateway.close()

    app = FastAPI(title="cachestore gateway", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def failed(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = ApiError(error.status_code, f"{error.detail}: see docs/gateway.md for what there is")
        return _error(api_error(error))

    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, failed)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(gateway, request, CompletionRequest)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(gateway, request, ChatRequest)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _asker(gateway, request)
        return JSONResponse({"object": "list", "data": [_model(gateway)]})

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        _asker(gateway, request)
        if name != gateway.served.name:
            raise ApiError(404, f"the model {name!r} does not exist here", param="model", code="model_not_found")
        return JSONResponse(_model(gateway))

    @app.get("/health")
    async def health() -> Response:
        well = bool(gateway.workers.all())
        status = "ok" if well else "no decode worker of this model is there"
        return JSONResponse({"status": status, "requests": gateway.under_way}, 200 if well else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        _asker(gateway, request)
        return Response(exposition(gateway.figures()), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _asker(gateway: Gateway, request: Request) -> Asker:
    return gateway.keys.asker(request.headers.get("authorization", ""))


def _model(gateway: Gateway) -> dict[str, Any]:
    return {"id": gateway.served.name, "object": "model", "created": gateway.started, "owned_by": "cachestore"}


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _answer(gateway: Gateway, request: Request, kind: type[CompletionRequest] | type[ChatRequest]) -> Response:
    begun = time.monotonic()
    gateway.counters.add("requests")
    with ExitStack() as held:
        try:
            asker = _asker(gateway, request)
            held.enter_context(gateway.place())
            asked = kind.of(await _body(request, gateway.settings.body_limit))
            conversation = Conversation(gateway, asker, await prompts.asked(gateway.served, asked))
            form = (Chats if kind is ChatRequest else Completions)(gateway.served.name)
            pieces, each = conversation.pieces(), asked.n or 1
            if asked.stream:
                first = await _unless_gone(request, anext(pieces))
                if first is not None:
                    return EventStream(
                        Events(conversation, form, first, pieces, held.pop_all(), each, asked.with_usage, begun)
                    )
            else:
                made = await _unless_gone(request, _collected(conversation, pieces))
                if made is not None:
                    conversation.done(begun)
                    return JSONResponse(form.whole(made, answers.usage(conversation.choices, each)))
        except ClientDisconnect:
            # with half of its body
            pass
        except Exception as error:
            known = api_error(error)
            gateway.failed(known)
            return _error(known)
        except BaseException:
            gateway.left()
            raise
    gateway.left()
    return Response(status_code=CLOSED)


async def _body(request: Request, most: int) -> bytes:
    too_large = ApiError(413, f"the body has more than {most} bytes", code="request_too_large")
    with suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} seconds", code="timeout") from None
    return bytes(body)


async def _collected(conversation: Conversation, pieces: Pieces) -> list[list[Piece]]:
    made: list[list[Piece]] = [[] for _ in conversation.choices]
    async with aclosing(pieces):
        async for index, piece in pieces:
            made[index].append(piece)
    return made


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """What `work` gives; None, with `work` cancelled, if the client leaves first."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
