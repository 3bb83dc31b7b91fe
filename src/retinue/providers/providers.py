"""Asking a model: fallbacks, retries, time limits, prices and structured answers, whoever the provider is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from retinue.kernel import BadInput, Settings
from retinue.providers import prices
from retinue.providers.backend import BackendFactory, Endpoint, Reply
from retinue.providers.breaker import Admission
from retinue.providers.failures import ModelFailed, clean
from retinue.providers.messages import (
    AnswerPart,
    Credentials,
    ListedModel,
    Message,
    ModelAnswer,
    ModelRequest,
    Text,
    ToolCall,
)
from retinue.providers.passing import Passage
from retinue.providers.registry import Access, ModelName, Registry, parse_model
from retinue.providers.structured import Misfit, Wanted
from retinue.providers.watch import Watched, watched
from retinue.providers.wires import Wire

OnText = Callable[[str, int], None]
"""Takes a piece of text and the number of the try it belongs to; a higher number voids what came before."""

_PATIENCE = 30.0
"""Seconds a provider may ask to wait before the next try; beyond that the next model is asked."""

_LISTING_SECONDS = 5.0
_backoff = wait_random_exponential(multiplier=0.5, max=8)


class Providers:
    """Every model that can be asked. One object a process; close it at the end.

    ``extra`` adds providers by name (plugins); see :mod:`retinue.providers.backend`.
    """

    def __init__(self, settings: Settings, extra: Mapping[str, BackendFactory] | None = None) -> None:
        self._settings = settings
        self._registry = Registry(settings, extra)

    @property
    def default_model(self) -> str:
        """The model of agents that name none."""
        return self._registry.default_model

    async def ask(
        self, request: ModelRequest, *, on_text: OnText | None = None, credentials: Credentials | None = None
    ) -> ModelAnswer:
        """Ask the first model of the request, then its fallbacks, each as often as the settings say.

        ``on_text`` is called with each piece of text as it arrives. Cancelling the task closes the connection.

        Raises:
            ModelFailed: none answered; it tells of the last one, and lists every try.
        """
        wanted = _wanted(request.output_schema)
        names = request.models or [self.default_model]
        asking = _Asking(self._settings, on_text or _ignore)
        last = ModelFailed("no_model")
        for number, name in enumerate(names):
            try:
                chosen = await self._choose(asking, name, credentials, is_last=number == len(names) - 1)
                return await chosen.answer(request, wanted)
            except ModelFailed as failed:
                last = failed
        last.attempts = asking.attempts
        last.failures = asking.failures
        raise last

    async def _choose(self, asking: _Asking, name: str, credentials: Credentials | None, *, is_last: bool) -> _Chosen:
        try:
            model = _parsed(name)
            access = await self._registry.access(model.provider, credentials)
        except ModelFailed as failed:
            failed.model = name[:200]
            asking.failures.append(failed.line())
            raise
        return _Chosen(asking, access, model, is_last=is_last)

    def estimate(self, request: ModelRequest, credentials: Credentials | None = None) -> int | None:
        """Return more than the answer is likely to cost, in nano-dollars, by the dearest model that may give it.

        None when no price is known.
        """
        known = [
            cost
            for name in request.models or [self.default_model]
            if (cost := self._estimate(name, request, credentials)) is not None
        ]
        return max(known, default=None)

    def _estimate(self, name: str, request: ModelRequest, credentials: Credentials | None) -> int | None:
        try:
            model = _parsed(name)
            return prices.estimate(self._registry.endpoint(model.provider, credentials), model.model, request)
        except ModelFailed:
            return None

    async def list_models(self, credentials: Credentials | None = None) -> list[ListedModel]:
        """Return the models that the reachable endpoints say they serve; an endpoint that is silent adds none."""
        providers = self._registry.providers(credentials)
        listed = await asyncio.gather(*(self._listed(provider, credentials) for provider in providers))
        return list(chain.from_iterable(listed))

    async def _listed(self, provider: str, credentials: Credentials | None) -> list[ListedModel]:
        try:
            access = await self._registry.access(provider, credentials)
            async with asyncio.timeout(_LISTING_SECONDS):
                names = await access.backend.list_models()
        except (ModelFailed, TimeoutError):
            return []
        return [
            ListedModel(
                model=f"{provider}:{name}",
                provider=provider,
                priced=prices.is_priced(access.endpoint, name),
                context_window=prices.context_window(access.endpoint, name),
            )
            for name in names
        ]

    def passage(self, wire: Wire, provider: str, credentials: Credentials | None = None) -> Passage:
        """Return the way to a provider in a wire format, for calls that are passed on as they came.

        Raises:
            ModelFailed: ``no_model``: there is no key or address for the provider, or it does not speak the format.
        """
        if provider == "demo" and wire.name == "openai":
            return Passage(wire, Endpoint("demo", ""), self._registry.demo_client())
        if provider != wire.provider:
            raise ModelFailed("no_model", f"The models of {provider[:50]} do not speak the format of {wire.name} here.")
        endpoint = self._registry.endpoint(provider, credentials)
        return Passage(wire, endpoint, self._registry.client(endpoint))

    def knows(self, provider: str, credentials: Credentials | None = None) -> bool:
        """Whether a word is the name of a provider that can be asked."""
        return provider in self._registry.providers(credentials)

    async def warm(self) -> None:
        """Load what the default model needs, so that the first message does not wait for it."""
        try:
            model = _parsed(self.default_model)
            access = await self._registry.access(model.provider, None)
        except ModelFailed:
            return
        await asyncio.to_thread(prices.is_priced, access.endpoint, model.model)

    async def close(self) -> None:
        """Close every connection."""
        await self._registry.close()


def _ignore(_text: str, _attempt: int) -> None:
    return


def _wanted(schema: dict[str, Any] | None) -> Wanted | None:
    try:
        return None if schema is None else Wanted(schema)
    except BadInput as bad:
        raise ModelFailed("refused", f"The output schema cannot be used. {bad.detail}") from None


def _parsed(name: str) -> ModelName:
    try:
        return parse_model(name)
    except BadInput as bad:
        raise ModelFailed("unknown_model", bad.detail, model=name[:100]) from None


class _Asking:
    """What all tries of one call share."""

    def __init__(self, settings: Settings, on_text: OnText) -> None:
        self.settings = settings
        self.on_text = on_text
        self.attempts = 0
        self.failures: list[str] = []


class _Chosen:
    """One model, asked as often as need be."""

    def __init__(self, asking: _Asking, access: Access, model: ModelName, *, is_last: bool) -> None:
        self._asking = asking
        self._access = access
        self._model = model
        self._is_last = is_last

    async def answer(self, request: ModelRequest, wanted: Wanted | None) -> ModelAnswer:
        """Return the model's answer; one that does not fit the schema is sent back once."""
        if wanted is None:
            reply = await self._tries(request)
            return self._answer(request, [reply], reply.parts)
        request = msgspec.structs.replace(request, output_schema=wanted.schema)
        rounds = [await self._tries(request)]
        if _calls(rounds[0].parts):
            return self._answer(request, rounds, rounds[0].parts)
        try:
            value = wanted.read(_text(rounds[0].parts))
        except Misfit as misfit:
            rounds.append(await self._tries(_sent_back(request, rounds[0].parts, str(misfit))))
            if _calls(rounds[1].parts):
                return self._answer(request, rounds, rounds[1].parts)
            value = self._second(wanted, rounds[1])
        return self._answer(request, rounds, _with_value(rounds[-1].parts, value), value)

    def _second(self, wanted: Wanted, reply: Reply) -> Any:
        try:
            return wanted.read(_text(reply.parts))
        except Misfit as misfit:
            failed = ModelFailed("bad_answer", str(misfit), retryable=False)
        self._note(failed)
        raise failed

    def _answer(
        self, request: ModelRequest, rounds: list[Reply], parts: list[AnswerPart], value: Any = None
    ) -> ModelAnswer:
        costs = [prices.cost_of(self._access.endpoint, self._model.model, reply) for reply in rounds]
        return ModelAnswer(
            parts=_with_new_ids(request, parts),
            model=str(self._model),
            provider=self._model.provider,
            input_tokens=sum(reply.input_tokens for reply in rounds),
            output_tokens=sum(reply.output_tokens for reply in rounds),
            cached_tokens=sum(reply.cached_tokens for reply in rounds),
            cost=None if None in costs else sum(cost for cost in costs if cost is not None),
            # Google ends an answer with calls like any other.
            finish="tool_call" if rounds[-1].finish == "stop" and _calls(parts) else rounds[-1].finish,
            attempts=self._asking.attempts,
            demo=self._model.provider == "demo",
            structured=value,
            failures=self._asking.failures,
        )

    async def _tries(self, request: ModelRequest) -> Reply:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self._asking.settings.model_attempts),
            wait=_wait,
            retry=retry_if_exception(self._may_try_again),
            reraise=True,
            sleep=asyncio.sleep,
        ):
            with attempt:
                return await self._try(request)
        raise AssertionError("tenacity ends with an answer or an exception")

    def _may_try_again(self, error: BaseException) -> bool:
        if not isinstance(error, ModelFailed) or not error.retryable:
            return False
        if isinstance(error, _Resting) and not self._is_last:
            return False
        return error.retry_after is None or error.retry_after <= _PATIENCE

    async def _try(self, request: ModelRequest) -> Reply:
        """Ask once, if the breaker lets it through, and tell the breaker how it went."""
        breaker = self._access.breaker
        admission = breaker.admit()
        if admission is Admission.HELD:
            resting = _Resting(breaker.wait())
            self._note(resting)
            raise resting
        healthy: bool | None = None
        try:
            reply = await self._timed(request)
            healthy = True
            return reply
        except ModelFailed as failed:
            healthy = self._says_of_endpoint(failed, request)
            self._note(failed)
            raise
        finally:
            breaker.ended(admission, healthy)

    def _says_of_endpoint(self, failed: ModelFailed, request: ModelRequest) -> bool | None:
        if failed.kind == "timeout" and request.timeout and request.timeout < self._asking.settings.model_timeout:
            # The caller was in a hurry; that says nothing about the endpoint.
            return None
        if failed.trouble:
            return False
        return True if failed.status is not None else None

    def _note(self, failed: ModelFailed) -> None:
        failed.model = str(self._model)
        failed.detail = clean(failed.detail, self._access.endpoint.api_key)
        failed.args = (failed.detail,)
        self._asking.failures.append(failed.line())

    async def _timed(self, request: ModelRequest) -> Reply:
        """Ask once, within the time for the whole answer and the time between two pieces of it."""
        settings = self._asking.settings
        seconds = request.timeout or settings.model_timeout
        self._asking.attempts += 1
        with watched(self._model.provider, self._model.model, request) as watch:
            clock = asyncio.get_running_loop().time
            limit = asyncio.timeout(seconds)
            end = clock() + seconds

            def beat() -> None:
                limit.reschedule(min(end, clock() + settings.model_stall))

            try:
                async with limit:
                    reply = await self._access.backend.ask(self._model.model, request, self._listener(watch), beat)
            except TimeoutError:
                stalled = limit.expired() and clock() < end
                text = f"It stopped for {settings.model_stall:g} s." if stalled else f"The limit is {seconds:g} s."
                raise ModelFailed("timeout", text) from None
            watch.answered(reply.served_by, reply.finish, reply.input_tokens, reply.output_tokens, reply.cached_tokens)
            return reply

    def _listener(self, watch: Watched) -> Callable[[str], None]:
        on_text, attempt = self._asking.on_text, self._asking.attempts

        def listen(text: str) -> None:
            watch.first_delta()
            on_text(text, attempt)

        return listen


class _Resting(ModelFailed):
    """The breaker held the call back."""

    def __init__(self, seconds: float) -> None:
        text = "It failed several times in a row and is left alone for a moment."
        super().__init__("overloaded", text, retry_after=seconds)

    def line(self) -> str:
        return f"{self.model} resting"


def _wait(state: RetryCallState) -> float:
    """Wait as long as the provider asks, and at least a random, growing while, so that callers spread out."""
    failed = state.outcome.exception() if state.outcome else None
    asked = failed.retry_after if isinstance(failed, ModelFailed) else None
    return (asked or 0.0) + _backoff(state)


def _calls(parts: list[AnswerPart]) -> bool:
    return any(isinstance(part, ToolCall) for part in parts)


def _text(parts: list[AnswerPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


def _with_value(parts: list[AnswerPart], value: Any) -> list[AnswerPart]:
    """Return the parts with the texts replaced by the data they stand for, without wrapping and fences."""
    text = Text(msgspec.json.encode(value).decode())
    return [*(part for part in parts if not isinstance(part, Text)), text]


def _sent_back(request: ModelRequest, parts: list[AnswerPart], complaint: str) -> ModelRequest:
    said = f"Your answer cannot be used. {complaint} Answer again, with JSON that fits the schema and nothing else."
    messages = [*request.messages, Message("assistant", list(parts)), Message("user", [Text(said)])]
    return msgspec.structs.replace(request, messages=messages)


def _with_new_ids(request: ModelRequest, parts: list[AnswerPart]) -> list[AnswerPart]:
    """Give calls an id of their own where the provider used one that the conversation has already.

    Some servers count from zero in every answer; results and events are told apart by these ids.
    """
    if not _calls(parts):
        return parts
    taken = {part.id for message in request.messages for part in message.parts if isinstance(part, ToolCall)}
    renamed: list[AnswerPart] = []
    for part in parts:
        if isinstance(part, ToolCall):
            name, number = part.id, 1
            while name in taken:
                number += 1
                name = f"{part.id}-{number}"
            taken.add(name)
            part = msgspec.structs.replace(part, id=name)
        renamed.append(part)
    return renamed
