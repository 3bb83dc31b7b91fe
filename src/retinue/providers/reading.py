"""Asking a model of Pydantic AI and reading its streamed answer, whatever the provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import httpx2
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.models import Model, StreamedResponse

from retinue.providers.backend import Beat, OnDelta, Reply
from retinue.providers.convert import failure_of, parameters_of, root_cause, settings_of, to_library, to_parts
from retinue.providers.failures import ModelFailed
from retinue.providers.messages import ModelRequest

KEPT_MODELS = 200
"""Models of one endpoint that are kept ready; building one again costs a millisecond."""


def asked(model: Model, request: ModelRequest) -> AbstractAsyncContextManager[StreamedResponse]:
    """Send the request; the stream is the answer. Leaving the block closes the connection."""
    return model_request_stream(
        model,
        to_library(request.messages),
        model_settings=settings_of(request),
        model_request_parameters=parameters_of(request, model.profile),
    )


@contextmanager
def translated_failures() -> Iterator[None]:
    """Raise what a client library raises as :class:`ModelFailed`; time limits and cancellation pass unchanged.

    The library's error is not kept as the cause: its text may quote the key, and tracebacks show it.
    """
    try:
        yield
    except (ModelFailed, TimeoutError):
        raise
    except httpx2.TransportError as error:
        raise ModelFailed("unreachable", f"({root_cause(error)})") from None
    except Exception as error:
        raise failure_of(error) from None


async def read_events(stream: StreamedResponse, on_delta: OnDelta, beat: Beat) -> Reply:
    """Read an answer to its end, handing on its text as it comes.

    Raises:
        ModelFailed: the answer ended too early, is empty, or a content filter took it.
    """
    async for event in stream:
        beat()
        if isinstance(event, PartDeltaEvent):
            if isinstance(event.delta, TextPartDelta) and event.delta.content_delta:
                on_delta(event.delta.content_delta)
        elif isinstance(event, PartStartEvent) and isinstance(event.part, TextPart) and event.part.content:
            on_delta(event.part.content)
    response = stream.get()
    if response.finish_reason is None or response.state == "incomplete":
        raise ModelFailed("bad_answer", "It ended in the middle.")
    usage = response.usage
    return ended(
        Reply(
            parts=to_parts(response.parts),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
            measured=bool(usage.input_tokens or usage.output_tokens),
            finish=response.finish_reason,
            served_by=response.model_name or "",
        )
    )


def ended(reply: Reply) -> Reply:
    """Return the reply of an answer that came to its end, if there is something in it.

    Raises:
        ModelFailed: there is not.
    """
    if reply.parts:
        return reply
    if reply.finish == "content_filter":
        raise ModelFailed("refused", "Its content filter stepped in.")
    raise ModelFailed("bad_answer", "It is empty.")
