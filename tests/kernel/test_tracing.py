"""Traces: nothing without a collector; with one, spans of the right trace and no text of people."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from retinue.kernel import Settings, configure_tracing, span, tracing_is_on
from tests.support.collector import Collector

PROGRAM = """
import sys, time
from retinue.kernel import Settings, configure_tracing, shutdown_tracing, span
from retinue.providers import ModelRequest
from retinue.providers.watch import watched

assert configure_tracing(Settings(otlp_endpoint=sys.argv[1]))
assert configure_tracing(Settings(otlp_endpoint=sys.argv[1]))
with span("request", trace_id="a" * 32, kind="server", attributes={"http.route": "/x"}):
    with span("inner"):
        pass
    with span("elsewhere", trace_id="b" * 32):
        pass
try:
    with span("invoke_agent", trace_id="c" * 32):
        request = ModelRequest(models=["openai:m"], instructions="private text", messages=[])
        with watched("openai", "m", request):
            raise ValueError("private text")
except ValueError:
    pass
began = time.monotonic()
shutdown_tracing()
print(time.monotonic() - began)
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    found.run(PROGRAM)
    yield found
    found.close()


def test_spans_belong_to_the_trace_they_are_given(collector: Collector) -> None:
    found = collector.spans()
    assert {name: one.trace_id.hex()[0] for name, one in found.items()} == {
        "request": "a",
        "inner": "a",
        "elsewhere": "b",
        "invoke_agent": "c",
        "chat m": "c",
    }
    assert found["inner"].parent_span_id == found["request"].span_id
    assert found["chat m"].parent_span_id == found["invoke_agent"].span_id
    assert not found["elsewhere"].parent_span_id
    assert set(collector.paths) == {"/v1/traces"}


def test_a_model_call_is_described_by_the_conventions(collector: Collector) -> None:
    attributes = {one.key: one.value.string_value for one in collector.spans()["chat m"].attributes}
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == "m"


def test_an_error_shows_its_kind_and_nobodys_text(collector: Collector) -> None:
    failed = collector.spans()["invoke_agent"]
    assert failed.status.code == 2
    assert {one.key: one.value.string_value for one in failed.attributes}["error.type"] == "ValueError"
    assert not any(b"private" in request.SerializeToString() for request in collector.requests)


def test_the_service_has_a_name_and_a_version(collector: Collector) -> None:
    resource = collector.requests[0].resource_spans[0].resource
    about = {one.key: one.value.string_value for one in resource.attributes}
    assert about["service.name"] == "retinue"
    assert about["service.version"]


def test_a_collector_that_hangs_delays_no_stop() -> None:
    collector = Collector(answers=False)
    assert float(collector.run(PROGRAM)) < 4.5
    assert collector.requests
    collector.close()


def test_without_a_collector_nothing_is_loaded_and_blocks_run_as_they_are() -> None:
    program = (
        "import sys\n"
        "from retinue.kernel import Settings, configure_tracing, span\n"
        "assert not configure_tracing(Settings())\n"
        "with span('x') as one:\n    assert one is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_error_passes_through_a_block_that_is_not_traced() -> None:
    assert not configure_tracing(Settings())
    assert not tracing_is_on()
    with pytest.raises(ValueError, match="planted"), span("x"):
        raise ValueError("planted")
