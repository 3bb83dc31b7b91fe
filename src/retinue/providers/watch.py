"""Watching model calls: spans after OpenTelemetry's conventions for generative AI, and numbers for /metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv.attributes import error_attributes
from prometheus_client import Counter, Histogram

from retinue.providers.failures import ModelFailed
from retinue.providers.messages import ModelRequest

CALLS = Counter("retinue_model_calls", "Tries of model calls, by how they ended", ["provider", "outcome"])
TOKENS = Counter("retinue_model_tokens", "Tokens of answered calls", ["provider", "direction"])
SECONDS = Histogram(
    "retinue_model_call_seconds",
    "How long answered tries took",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)

_SYSTEMS = {"google": names.GenAiProviderNameValues.GCP_GEMINI.value}
_tracer = trace.get_tracer("retinue.providers")


class Watched:
    """One try under watch."""

    def __init__(self, span: trace.Span, provider: str) -> None:
        self._span = span
        self._provider = provider
        self._began = time.perf_counter()
        self._first: float | None = None

    def first_delta(self) -> None:
        """Note that the first piece of the answer is here."""
        if self._first is None:
            self._first = time.perf_counter() - self._began

    def answered(self, served_by: str, finish: str, read: int, written: int, cached: int) -> None:
        """Note the answer. No text of the conversation goes into a span."""
        SECONDS.labels(self._provider).observe(time.perf_counter() - self._began)
        TOKENS.labels(self._provider, "input").inc(read)
        TOKENS.labels(self._provider, "output").inc(written)
        if not self._span.is_recording():
            return
        self._span.set_attribute(names.GEN_AI_RESPONSE_MODEL, served_by)
        self._span.set_attribute(names.GEN_AI_RESPONSE_FINISH_REASONS, [finish])
        self._span.set_attribute(names.GEN_AI_USAGE_INPUT_TOKENS, read)
        self._span.set_attribute(names.GEN_AI_USAGE_OUTPUT_TOKENS, written)
        self._span.set_attribute(names.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, cached)
        if self._first is not None:
            self._span.set_attribute(names.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, self._first)


def count_passed(provider: str, outcome: str, seconds: float) -> None:
    """Count a call that was passed on in the provider's own format; ``outcome`` may be an HTTP status."""
    CALLS.labels(provider, outcome).inc()
    if outcome == "answered":
        SECONDS.labels(provider).observe(seconds)


def count_tokens(provider: str, read: int, written: int) -> None:
    """Count the tokens of a call that was passed on."""
    TOKENS.labels(provider, "input").inc(read)
    TOKENS.labels(provider, "output").inc(written)


@contextmanager
def watched(provider: str, model: str, request: ModelRequest) -> Iterator[Watched]:
    """Watch one try: a span ``chat <model>`` when tracing is on, and the numbers always."""
    span = _tracer.start_span(f"chat {model}", kind=trace.SpanKind.CLIENT)
    if span.is_recording():
        _describe(span, provider, model, request)
    outcome = "cancelled"
    try:
        yield Watched(span, provider)
        outcome = "answered"
    except ModelFailed as failed:
        outcome = failed.kind
        if span.is_recording():
            span.set_attribute(error_attributes.ERROR_TYPE, failed.kind)
            span.set_status(trace.Status(trace.StatusCode.ERROR, failed.detail))
        raise
    finally:
        CALLS.labels(provider, outcome).inc()
        span.end()


def _describe(span: trace.Span, provider: str, model: str, request: ModelRequest) -> None:
    span.set_attribute(names.GEN_AI_OPERATION_NAME, names.GenAiOperationNameValues.CHAT.value)
    span.set_attribute(names.GEN_AI_PROVIDER_NAME, _SYSTEMS.get(provider, provider))
    span.set_attribute(names.GEN_AI_REQUEST_MODEL, model)
    span.set_attribute(names.GEN_AI_REQUEST_STREAM, True)
    if request.output_schema is not None:
        span.set_attribute(names.GEN_AI_OUTPUT_TYPE, names.GenAiOutputTypeValues.JSON.value)
    if request.max_tokens is not None:
        span.set_attribute(names.GEN_AI_REQUEST_MAX_TOKENS, request.max_tokens)
    if request.temperature is not None:
        span.set_attribute(names.GEN_AI_REQUEST_TEMPERATURE, request.temperature)
