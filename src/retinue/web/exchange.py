"""What the server knows of one request or connection while it lasts."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from opentelemetry import trace
from starlette.types import Receive, Send

from retinue.kernel import Fault, Unauthenticated
from retinue.web.gate import Credential

_KEY = "retinue.exchange"


@dataclass(slots=True, eq=False)
class Exchange:
    """One request, from its first byte to its last; kept in the ASGI scope.

    Attributes:
        trace_id: W3C trace id, 32 hex digits; the caller's own where it sent one.
        span_id: the span of this request, 16 hex digits.
        sampled: whether the caller records the trace.
        client: the address that asks, without the port.
        started: monotonic seconds at the first byte.
        credential: who asks, as far as is known without the database.
        refusal: why the credential that was sent is not accepted.
        used_up: the signature of the request was taken out of use, for this request.
        user: who asks, for the log; known once the caller was let in.
        headers: further headers of the response, such as the state of the rate limit.
        status: the response's status, once it started.
        body: the request's body, once it was read, for the fingerprint of an idempotent request.
        answer: the finished response of a scoped route, so that the scope can store it before it commits.
        failed: a mistake of the program was logged, and the caller was told, or the answer had begun and must be cut.
        stream: what goes on after the application has answered: a live stream, run by the outermost layer, so that
            the layers between need not stay around for hours.
    """

    trace_id: str
    span_id: str
    sampled: bool = False
    client: str = ""
    started: float = field(default_factory=time.monotonic)
    credential: Credential | None = None
    refusal: Fault | None = None
    used_up: bool = False
    user: str = ""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 0
    body: bytes = b""
    answer: Any = None
    failed: Literal["", "answered", "cut"] = ""
    stream: Callable[[Receive, Send], Awaitable[None]] | None = None

    def caller(self) -> Credential:
        """Return who asks.

        Raises:
            Unauthenticated: nobody, or somebody whose credential is not accepted.
        """
        if self.credential is not None:
            return self.credential
        raise self.refusal or Unauthenticated()

    def join_span(self) -> None:
        """Take over the ids of the span that the framework has opened for the request, when tracing is on."""
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            self.trace_id, self.span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
            self.sampled = span.trace_flags.sampled

    def enter(self, scope: Any) -> None:
        """Keep this exchange in the ASGI scope."""
        scope[_KEY] = self


def exchange_of(scope: Any) -> Exchange:
    """Return the exchange of an ASGI scope; a fresh one for an application run without the outer middleware."""
    found = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = Exchange(secrets.token_hex(16), secrets.token_hex(8))
    return cast(Exchange, found)
