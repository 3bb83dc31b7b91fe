"""A small HTTP server whose answers a test scripts, for what a real server does only when things go wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """What came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """What goes out; ``drop`` closes the connection without a word."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False


Handler = Callable[[Request], Answer]


class ScriptedServer:
    """Answers by method and path; the last answer of a route repeats."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._routes: dict[str, list[Answer | Handler]] = {}
        self._lock = threading.Lock()
        self.url = ""

    def on(self, route: str, *answers: Answer | Handler) -> None:
        """Script a route such as ``GET /v1/my/agents``."""
        self._routes[route] = list(answers)

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            script = self._routes.get(f"{request.method} {request.path}")
            if not script:
                return Answer(404, problem("not-found", f"There is no {request.path}."))
            found = script.pop(0) if len(script) > 1 else script[0]
        return found if isinstance(found, Answer) else found(request)

    def asked(self, route: str) -> list[Request]:
        """Return the requests of a route so far."""
        return [request for request in self.requests if f"{request.method} {request.path}" == route]


def problem(kind: str, detail: str, **more: object) -> dict[str, object]:
    """Write a problem document as the product does."""
    return {"type": f"urn:retinue:problem:{kind}", "title": kind, "detail": detail, **more}


def sse(*events: tuple[str, int | None, dict[str, Any]], run_id: str | None = None) -> Answer:
    """Write a stream of events (name, position, payload); the connection ends after them."""
    text = ": hello\n\n"
    for name, position, payload in events:
        data = {"event_type": name, "payload": payload, "session_id": None, "run_id": run_id}
        head = f"id: {position}\n" if position else ""
        text += f"{head}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    return Answer(200, text.encode(), {"Content-Type": "text/event-stream"})


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    """Run a server on a free port of loopback."""
    server = ScriptedServer()

    class Speaker(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            try:
                body = json.loads(raw) if raw else None
            except ValueError:
                body = raw
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body)
            self._write(server.answer(request))

        def _write(self, answer: Answer) -> None:
            self.close_connection = True
            if answer.drop:
                return
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content if answer.body is not None else b"")

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *_: object) -> None:
            """Say nothing: the tests read `requests`."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Speaker)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(5)
