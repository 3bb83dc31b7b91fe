"""One span a try, after the conventions, without a word of the conversation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from retinue.providers import ModelFailed, Providers, watch
from tests.providers.stub import KEY, ask_for
from tests.support.model_server import ModelServer, Step, Usage


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Tracing switched on for the room, into memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(watch, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_an_answered_call(server: ModelServer, providers: Providers, spans: InMemorySpanExporter) -> None:
    server.script(Step(text="secret answer", usage=Usage(10, 5, cached=4)))
    await providers.ask(ask_for("secret question", "google:gemini-2.5-flash", max_tokens=9, temperature=0.5))
    [span] = spans.get_finished_spans()
    told = attributes(span)
    first = told.pop("gen_ai.response.time_to_first_chunk")
    assert isinstance(first, float)
    assert span.name == "chat gemini-2.5-flash"
    assert told == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.response.model": "gemini-2.5-flash",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
    }
    assert "secret" not in span.to_json()
    assert KEY not in span.to_json()


async def test_every_try_is_a_span(server: ModelServer, providers: Providers, spans: InMemorySpanExporter) -> None:
    server.script(Step(status=500), Step(status=401, message=f"bad {KEY}"))
    with pytest.raises(ModelFailed):
        await providers.ask(ask_for("go"))
    kinds = [attributes(span).get("error.type") for span in spans.get_finished_spans()]
    assert kinds == ["overloaded", "bad_key"]
    assert all(KEY not in span.to_json() for span in spans.get_finished_spans())


async def test_the_numbers(server: ModelServer, providers: Providers) -> None:
    def calls(outcome: str) -> float:
        return REGISTRY.get_sample_value("retinue_model_calls_total", {"provider": "openai", "outcome": outcome}) or 0.0

    answered, failed = calls("answered"), calls("overloaded")
    server.script(Step(status=500), Step(text="x"))
    await providers.ask(ask_for("go"))
    assert (calls("answered"), calls("overloaded")) == (answered + 1, failed + 1)
