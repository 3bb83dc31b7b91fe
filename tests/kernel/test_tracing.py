"""Traces: nothing without a collector; with one, spans of the right trace and no text of people."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from retinue.kernel import Settings, configure_tracing, span, tracing_is_on

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


class Collector:
    """An OTLP/HTTP collector that keeps what it gets, or takes it and never answers."""

    def __init__(self, *, answers: bool = True) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        self.ended = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    raise AssertionError("not asked for")
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                if not answers:
                    collector.ended.wait(30)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def run(self) -> float:
        """Run the program against this collector; return how long its shutdown took, in seconds."""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, self.url], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    found = Collector()
    found.run()
    yield found
    found.close()


def spans(collector: Collector) -> dict[str, Any]:
    resources = [one for request in collector.requests for one in request.resource_spans]
    return {one.name: one for resource in resources for scope in resource.scope_spans for one in scope.spans}


def test_spans_belong_to_the_trace_they_are_given(collector: Collector) -> None:
    found = spans(collector)
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
    attributes = {one.key: one.value.string_value for one in spans(collector)["chat m"].attributes}
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == "m"


def test_an_error_shows_its_kind_and_nobodys_text(collector: Collector) -> None:
    failed = spans(collector)["invoke_agent"]
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
    assert collector.run() < 4.5
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
