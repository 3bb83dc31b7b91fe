"""The doors to HTTP: models for a tenant's own tools, in the format of the provider whose client they use.

The base URL of OpenAI's clients is ``/v1/models/openai``, of Anthropic's ``/v1/models/anthropic``, of Google's
``/v1/models/gemini``; the key is one of this server's. Answers and errors have the provider's own shape, but for those
that come before the call is looked at (no key, too many requests), which are problem documents.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Path, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from retinue.gateway import routes
from retinue.gateway.commands import Caller
from retinue.gateway.relay import Relay
from retinue.gateway.routes import ANTHROPIC, GEMINI, OPENAI, Route
from retinue.gateway.rules import Allowance, Rules
from retinue.kernel import Scope, Settings, nanos, new_id
from retinue.tenancy import refuse_when_stopped
from retinue.web import Router, problems, scoped

MayAsk = Annotated[Scope, scoped("models", "create")]
Model = Annotated[str, Path(description="the model's name", examples=["gemini-2.5-flash"])]

_OBJECT = {"schema": {"type": "object"}}


def _errors() -> dict[int | str, dict[str, Any]]:
    """Return what any call can answer besides: in the provider's shape, or as a problem."""
    found = problems(400, 401, 402, 403, 404, 408, 409, 413, 415, 429, 500, 502, 503, 504)
    for response in found.values():
        response["content"]["application/json"] = _OBJECT
    found["default"] = {"description": "The provider's own answer", "content": {"application/json": _OBJECT}}
    return found


router = Router(prefix="/v1/models", tags=["models"], responses=_errors())

_CALL: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "as the provider documents it",
        "content": {"application/json": _OBJECT},
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The provider's answer; server-sent events where a stream was asked for",
        "content": {"application/json": _OBJECT, "text/event-stream": {"schema": {"type": "string"}}},
    }
}
_LIST: dict[int | str, dict[str, Any]] = {
    200: {"description": "The models, in the provider's shape", "content": {"application/json": _OBJECT}}
}


class Passed(Response):
    """An answer that comes from a provider, once the scope has committed and its connection is free."""

    def __init__(self, relay: Relay, route: Route, query: dict[str, str]) -> None:
        super().__init__()
        # Not bytes: an answer that is not there yet must not be kept under an idempotency key.
        self.body = memoryview(b"")
        self._relay = relay
        self._route = route
        self._query = query

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Carry out the call."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        await self._relay.answer(self._route, headers, self._query, receive, cast(Any, send))


_PASSED: dict[str, Any] = {
    "status_code": 200,
    "response_class": Passed,
    "responses": _ANSWER,
    "openapi_extra": _CALL,
}
_LISTED: dict[str, Any] = {"status_code": 200, "response_class": Passed, "responses": _LIST}


async def _passed(scope: Scope, request: Request, route: Route) -> Passed:
    """Answer by the relay: for the scope's user, and in the name of the key or login that asks.

    Raises:
        Conflict: the tenant is stopped.
    """
    await refuse_when_stopped(scope)
    caller = Caller(
        tenant_id=scope.tenant_id,
        user_id=scope.owner(),
        agent_id=scope.actor.id or scope.owner(),
        run_id=new_id(),
        actor=scope.actor,
        lasts=False,
    )
    unpriced = nanos(scope.service(Settings).unpriced_call_cost)
    # What the tenant's own programs may reach is not ours to say: they have a network of their own.
    relay = Relay(scope.services, caller, Allowance(Rules(reach=True), unpriced))
    return Passed(relay, route, dict(request.query_params))


@router.post("/openai/chat/completions", **_PASSED)
async def openai_chat(scope: MayAsk, request: Request) -> Response:
    """Ask a model in the format of OpenAI's chat completions. Models of the scripted demo are `demo:...`."""
    return await _passed(scope, request, Route(OPENAI, routes.CHAT))


@router.post("/openai/responses", **_PASSED)
async def openai_responses(scope: MayAsk, request: Request) -> Response:
    """Ask a model in the format of OpenAI's responses; nothing is kept at the provider for a later call."""
    return await _passed(scope, request, Route(OPENAI, routes.RESPONSES))


@router.post("/openai/embeddings", **_PASSED)
async def openai_embeddings(scope: MayAsk, request: Request) -> Response:
    """Ask for embeddings in OpenAI's format."""
    return await _passed(scope, request, Route(OPENAI, routes.EMBEDDINGS))


@router.get("/openai/models", **_LISTED)
async def openai_models(scope: MayAsk, request: Request) -> Response:
    """List the models that speak OpenAI's format."""
    return await _passed(scope, request, Route(OPENAI, None))


@router.post("/anthropic/v1/messages", **_PASSED)
async def anthropic_messages(scope: MayAsk, request: Request) -> Response:
    """Ask a model in the format of Anthropic's messages. The key may be in `x-api-key`."""
    return await _passed(scope, request, Route(ANTHROPIC, routes.MESSAGES))


@router.post("/anthropic/v1/messages/count_tokens", **_PASSED)
async def anthropic_count(scope: MayAsk, request: Request) -> Response:
    """Count the tokens of a message in Anthropic's format; costs nothing."""
    return await _passed(scope, request, Route(ANTHROPIC, routes.COUNT_MESSAGES))


@router.get("/anthropic/v1/models", **_LISTED)
async def anthropic_models(scope: MayAsk, request: Request) -> Response:
    """List the models that speak Anthropic's format."""
    return await _passed(scope, request, Route(ANTHROPIC, None))


@router.post("/gemini/v1beta/models/{model}:generateContent", **_PASSED)
async def gemini_generate(scope: MayAsk, request: Request, model: Model) -> Response:
    """Ask a model in the format of Gemini. The key may be in `x-goog-api-key`."""
    return await _passed(scope, request, Route(GEMINI, routes.GENERATE, model))


@router.post("/gemini/v1beta/models/{model}:streamGenerateContent", **_PASSED)
async def gemini_stream(scope: MayAsk, request: Request, model: Model) -> Response:
    """Ask a model in the format of Gemini and get a stream; add `?alt=sse`."""
    return await _passed(scope, request, Route(GEMINI, routes.STREAM, model))


@router.post("/gemini/v1beta/models/{model}:countTokens", **_PASSED)
async def gemini_count(scope: MayAsk, request: Request, model: Model) -> Response:
    """Count the tokens of a request in Gemini's format; costs nothing."""
    return await _passed(scope, request, Route(GEMINI, routes.COUNT, model))


@router.get("/gemini/v1beta/models", **_LISTED)
async def gemini_models(scope: MayAsk, request: Request) -> Response:
    """List the models that speak Gemini's format."""
    return await _passed(scope, request, Route(GEMINI, None))
