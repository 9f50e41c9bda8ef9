"""The HTTP side: who asks is known before anything is read, and every failure is OpenAI's error object."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cachestore.errors import DeadlineExceeded
from gateway import answers, prompts
from gateway.answers import Chats, Completions
from gateway.conversation import Conversation
from gateway.errors import ApiError, api_error
from gateway.figures import exposition
from gateway.gateway import Gateway
from gateway.keys import Asker
from gateway.requests import ChatRequest, CompletionRequest
from gateway.settings import GatewaySettings
from gateway.streaming import Events, EventStream, Pieces
from gateway.text import Piece

T = TypeVar("T")

_log = logging.getLogger(__name__)

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

    async def completions(request: Request) -> Response:
        return await _answer(gateway, request, CompletionRequest)

    async def chat_completions(request: Request) -> Response:
        return await _answer(gateway, request, ChatRequest)

    async def models(request: Request) -> Response:
        _asker(gateway, request)
        return JSONResponse({"object": "list", "data": [_model(gateway)]})

    async def model(request: Request) -> Response:
        _asker(gateway, request)
        name = request.path_params["name"]
        if name != gateway.served.name:
            raise ApiError(404, f"the model {name!r} does not exist here", param="model", code="model_not_found")
        return JSONResponse(_model(gateway))

    async def health(_: Request) -> Response:
        well = bool(gateway.workers.all())
        status = "ok" if well else "no decode worker of this model is there"
        return JSONResponse({"status": status, "requests": gateway.under_way}, 200 if well else 503)

    async def metrics(request: Request) -> Response:
        _asker(gateway, request)
        return Response(exposition(gateway.figures()), media_type="text/plain; version=0.0.4; charset=utf-8")

    # added as they are: what FastAPI injects into a function nobody asks for here, and it would look for at every call
    app.add_route("/v1/completions", completions, ["POST"])
    app.add_route("/v1/chat/completions", chat_completions, ["POST"])
    app.add_route("/v1/models", models)
    app.add_route("/v1/models/{name:path}", model)
    app.add_route("/health", health)
    app.add_route("/metrics", metrics)
    return app


def _asker(gateway: Gateway, request: Request) -> Asker:
    return gateway.keys.asker(request.headers.get("authorization", ""))


def _model(gateway: Gateway) -> dict[str, Any]:
    return {"id": gateway.served.name, "object": "model", "created": gateway.started, "owned_by": "cachestore"}


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _answer(gateway: Gateway, request: Request, kind: type[CompletionRequest] | type[ChatRequest]) -> Response:
    begun = time.monotonic()
    until = begun + gateway.settings.request_timeout
    gateway.counters.add("requests")
    with ExitStack() as held:
        try:
            asker = _asker(gateway, request)
            held.enter_context(gateway.place())
            body = await _body(request, gateway.settings)
            async with _in_time(until):
                asked = kind.of(body)
                sequences = await prompts.asked(gateway.served, asked)
            conversation = Conversation(gateway, asker, sequences, until)
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
                    whole = form.whole(made, answers.usage(conversation.choices, each))
                    return Response(to_json(whole), media_type="application/json")
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


@asynccontextmanager
async def _in_time(until: float) -> AsyncIterator[None]:
    """DeadlineExceeded if what is inside is not done by `until` of the monotonic clock."""
    try:
        async with asyncio.timeout(until - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the time of gateway.request_timeout is over before the request was read") from None


async def _body(request: Request, settings: GatewaySettings) -> bytes:
    most, seconds = settings.body_limit, min(BODY_SECONDS, settings.request_timeout)
    too_large = ApiError(413, f"the body has more than {most} bytes", code="request_too_large")
    with suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {seconds:g} seconds", code="timeout") from None
    return bytes(body)


async def _collected(conversation: Conversation, pieces: Pieces) -> list[list[Piece]]:
    made: list[list[Piece]] = [[] for _ in conversation.choices]
    async with aclosing(pieces):
        async for index, piece in pieces:
            made[index].append(piece)
    return made


async def _unless_gone(request: Request, work: Awaitable[T]) -> T | None:
    """What `work` gives; None, with `work` cancelled, if the client leaves first."""
    staying = asyncio.timeout(None)
    try:
        async with staying:
            leaving = asyncio.create_task(_gone(request, staying))
            try:
                return await work
            finally:
                leaving.cancel()
    except TimeoutError:
        if not staying.expired():
            raise
        return None


async def _gone(request: Request, staying: asyncio.Timeout) -> None:
    """Ends `staying` when the client leaves, or when nobody can tell any more: then its way here is gone."""
    try:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    except Exception as error:
        _log.warning("what leads to a client failed: %s", error)
    staying.reschedule(0.0)
