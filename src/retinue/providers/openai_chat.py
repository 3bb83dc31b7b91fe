"""OpenAI's chat completions, which vLLM, Ollama and most others speak too.

Pydantic AI writes the request: it knows what each model takes. The answer is read here, because that is where the
time goes: the libraries spend a pydantic object, several generators and a lock on every delta. The places where the
fast path is put in are ones they offer: the client's ``post`` that returns the plain response, the client's resource
classes, and the class of a model's streamed response. The usual path stays for what needs it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, cast

import httpx2
import msgspec
from openai import AsyncOpenAI, AsyncStream, NotGiven, Omit
from openai.resources.chat import AsyncChat, AsyncCompletions
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIStreamedResponse
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from retinue.providers.backend import Beat, Endpoint, OnDelta, Reply
from retinue.providers.chat_answer import ChatAnswer
from retinue.providers.failures import ModelFailed
from retinue.providers.messages import ModelRequest
from retinue.providers.reading import KEPT_MODELS, asked, ended, read_events, translated_failures

# Said here, because the client would otherwise take an address from the environment, with whosever key it is.
_PUBLIC = "https://api.openai.com/v1"

_DRAIN_SECONDS = 0.1
_KEPT_TOOL_SETS = 200
_ZERO_WIDTH_JOINER = "\u200d".encode()


class OpenAIChat:
    """The models of one OpenAI-compatible endpoint."""

    def __init__(self, endpoint: Endpoint, http: httpx2.AsyncClient) -> None:
        self._client = _Client(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url or _PUBLIC,
            http_client=http,
            timeout=http.timeout,
            max_retries=0,
        )
        if endpoint.tenant:
            # The server's, out of its environment; they do not go with anybody else's key.
            self._client.organization = self._client.project = None
        self._provider = OpenAIProvider(openai_client=self._client)
        self._model = lru_cache(maxsize=KEPT_MODELS)(partial(_Model, provider=self._provider))

    async def ask(self, model: str, request: ModelRequest, on_delta: OnDelta, beat: Beat) -> Reply:
        """Ask a model once; see :class:`~retinue.providers.backend.Backend`."""
        with translated_failures():
            async with asked(self._model(model), request) as stream:
                if isinstance(stream, _Streamed) and stream.is_fast:
                    return await stream.read(on_delta, beat)
                return await read_events(stream, on_delta, beat)

    async def list_models(self) -> Sequence[str]:
        """Return what the endpoint says it serves."""
        with translated_failures():
            return [model.id async for model in self._client.models.list()]


class _Client(AsyncOpenAI):
    @cached_property
    def chat(self) -> AsyncChat:
        return _Chat(self)


class _Chat(AsyncChat):
    @cached_property
    def completions(self) -> AsyncCompletions:
        return _Completions(self._client)


class _Completions(AsyncCompletions):
    """Sends a streamed request's body as it is, and hands its response out unread."""

    async def create(self, **fields: Any) -> Any:
        if not fields.get("stream"):
            return await super().create(**fields)
        given = {name: value for name, value in fields.items() if not isinstance(value, (Omit, NotGiven))}
        headers = given.pop("extra_headers", None) or {}
        timeout = given.pop("timeout", NotGiven())
        body = given | (given.pop("extra_body", None) or {})
        try:
            content = msgspec.json.encode(body)
        except UnicodeEncodeError:
            # A lone surrogate has no UTF-8; the library writes it as an escape.
            return await super().create(**fields)
        if _ZERO_WIDTH_JOINER in content:
            # Put into control tokens by Pydantic AI, perhaps; its own reading takes them out of the answer again.
            return await super().create(**fields)
        response = await self._client.post(
            "/chat/completions",
            content=content,
            cast_to=httpx2.Response,
            options={"headers": headers, "timeout": timeout},
            stream=True,
            stream_cls=AsyncStream[ChatCompletionChunk],
        )
        return _Chunks(cast(httpx2.Response, response))


class _Model(OpenAIChatModel):
    """Pydantic AI's model, but for how its answer is read."""

    def __init__(self, name: str, provider: OpenAIProvider) -> None:
        super().__init__(name, provider=provider)
        self._adapted: OrderedDict[tuple[int, ...], tuple[list[ToolDefinition], list[ToolDefinition]]] = OrderedDict()

    def customize_request_parameters(self, model_request_parameters: ModelRequestParameters) -> ModelRequestParameters:
        """Adapt the tools' schemas to the model, once for each set of tools and not with every request."""
        given = model_request_parameters.function_tools
        if not given or model_request_parameters.output_object or model_request_parameters.output_tools:
            return super().customize_request_parameters(model_request_parameters)
        # Equal tools are the same objects (`convert.Definitions`), and what is kept keeps them alive.
        key = tuple(map(id, given))
        if key not in self._adapted:
            adapted = super().customize_request_parameters(model_request_parameters).function_tools
            self._adapted[key] = (given, adapted)
            if len(self._adapted) > _KEPT_TOOL_SETS:
                self._adapted.popitem(last=False)
        return replace(model_request_parameters, function_tools=list(self._adapted[key][1]))

    @property
    def _streamed_response_cls(self) -> type[OpenAIStreamedResponse]:
        return _Streamed


class _Streamed(OpenAIStreamedResponse):
    """A streamed answer that can be read in one loop."""

    @property
    def is_fast(self) -> bool:
        """Whether :meth:`read` can be used."""
        return isinstance(self._response.source, _Chunks)

    async def read(self, on_delta: OnDelta, beat: Beat) -> Reply:
        """Read the answer to its end; see :func:`~retinue.providers.reading.read_events`."""
        chunks = cast(_Chunks, self._response.source)
        answer = ChatAnswer(self._model_profile, self._provider_name, on_delta)
        # The library has looked at the first ones already.
        first = await self._response.peek()
        beat()
        for chunk in cast(_Batch, first):
            answer.add(chunk)
        async for batch in chunks:
            beat()
            for chunk in batch:
                answer.add(chunk)
        return ended(answer.reply(complete=chunks.done))


class _Batch(list[dict[str, Any]]):
    """The chunks that arrived together. ``model`` is what the library asks the first chunk of a stream."""

    @property
    def model(self) -> str:
        name = self[0].get("model") if self else None
        return name if isinstance(name, str) else ""


class _Chunks:
    """The server-sent events of a response, decoded (WHATWG HTML, section 9.2; OpenAI ends them with ``[DONE]``)."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._batches = self._read()
        self.done = False

    async def __aenter__(self) -> _Chunks:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._response.aclose()

    async def close(self) -> None:
        """Close the connection; the library calls it so."""
        await self._response.aclose()

    def __aiter__(self) -> AsyncIterator[_Batch]:
        return self._batches

    async def _read(self) -> AsyncIterator[_Batch]:
        pending = b""
        reads = self._response.aiter_bytes()
        async for read in reads:
            *lines, pending = (pending + read).split(b"\n")
            if batch := self._decoded(lines):
                yield batch
            if self.done:
                await _drain(reads)
                return
        if batch := self._decoded([pending]):
            yield batch

    def _decoded(self, lines: Iterable[bytes]) -> _Batch:
        batch = _Batch()
        for line in lines:
            # Every provider sends one line of data an event; names, ids and comments say nothing here.
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data.startswith(b"[DONE]"):
                self.done = True
                break
            try:
                chunk = msgspec.json.decode(data)
            except msgspec.DecodeError:
                raise ModelFailed("bad_answer", "It sent broken JSON.") from None
            if isinstance(chunk, dict):
                batch.append(chunk)
        return batch


async def _drain(reads: AsyncIterator[bytes]) -> None:
    """Read what may follow the last event, so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in reads:
                pass
    except (TimeoutError, httpx2.TransportError):
        # The answer is complete; the connection is closed instead of kept.
        return
