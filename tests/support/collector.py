"""A collector of traces, in this process, for programs that send some."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


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

    def run(self, program: str) -> str:
        """Run a Python program that gets this collector's address; return what it printed.

        A process has one destination of traces for all its life, so each test of them takes one of its own.
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, self.url], capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def all_spans(self) -> list[Any]:
        """Return every span it got."""
        resources = [one for request in self.requests for one in request.resource_spans]
        return [one for resource in resources for scope in resource.scope_spans for one in scope.spans]

    def spans(self) -> dict[str, Any]:
        """Return the spans it got, by name."""
        return {one.name: one for one in self.all_spans()}
