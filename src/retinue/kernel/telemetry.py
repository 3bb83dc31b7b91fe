"""What can be watched from outside: the log on standard error, and traces for a collector where one is configured.

Numbers for ``/metrics`` are kept where they arise. No telemetry leaves the machine unless the setting
``OTEL_EXPORTER_OTLP_ENDPOINT`` names where to; then spans go there by OTLP over HTTP, without the text of any
conversation.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TextIO
from urllib.parse import urlsplit

from pydantic import SecretStr

from retinue.kernel.log_lines import JsonLines, Mask, TextLines
from retinue.kernel.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Kind = Literal["internal", "server", "client", "consumer"]
Value = str | bool | int | float

# What these say below a warning holds whole requests: prompts, and headers.
_TALKATIVE = ("anthropic", "google_genai", "httpcore", "httpcore2", "httpx", "httpx2", "mcp", "openai")
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Output(logging.StreamHandler[TextIO]):
    """This server's one handler; a second :func:`configure_logging` finds it by its class."""


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send the whole process's log to ``stream``, by default standard error, in the form the settings ask for.

    ``log_level`` is that of Retinue itself. Other libraries are heard from warnings on, at ``debug`` from ``info`` on.
    Calling it again replaces what the call before set up.
    """
    mask = Mask(_secrets(settings))
    output = _Output(stream or sys.stderr)
    output.setFormatter(JsonLines(mask) if settings.log_format == "json" else TextLines(mask))
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _Output)]:
        root.removeHandler(handler)
    root.addHandler(output)
    level = _LEVELS[settings.log_level]
    root.setLevel(logging.INFO if level == logging.DEBUG else max(level, logging.WARNING))
    logging.getLogger("retinue").setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    _adopt("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    logging.captureWarnings(True)


def _adopt(*names: str) -> None:
    """Let loggers that a library may have given handlers of their own write through ours."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def _secrets(settings: Settings) -> set[str]:
    """Return every secret value of the settings; of an address, its password."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            found.add(urlsplit(secret).password or "" if "://" in secret else secret)
    return found


# Traces

_provider: TracerProvider | None = None
_wanted_trace: ContextVar[int] = ContextVar("wanted_trace", default=0)


def configure_tracing(settings: Settings) -> bool:
    """Begin to send spans to the collector that the settings name; return whether they name one.

    The libraries for it are loaded only then. The collector may be away: spans are sent in the background, and are
    dropped when they cannot be.
    """
    global _provider
    if settings.otlp_endpoint is None:
        return False
    if _provider is None:
        from opentelemetry import trace

        _provider = _new_provider(settings.otlp_endpoint)
        trace.set_tracer_provider(_provider)
    return True


def _new_provider(endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    import retinue

    class WantedOrRandom(RandomIdGenerator):
        """Gives a trace the id that its run or command has already."""

        def generate_trace_id(self) -> int:
            return _wanted_trace.get() or super().generate_trace_id()

    about = {SERVICE_VERSION: retinue.__version__}
    if "OTEL_SERVICE_NAME" not in os.environ:
        about[SERVICE_NAME] = "retinue"
    provider = TracerProvider(resource=Resource.create(about), id_generator=WantedOrRandom(), shutdown_on_exit=False)
    # The variable names the collector; traces have their path below it (OTLP specification, "Endpoint URLs").
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=5)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def tracing_is_on() -> bool:
    """Return whether spans are sent anywhere."""
    return _provider is not None


def shutdown_tracing(seconds: float = 3.0) -> None:
    """Send what is left and stop. Blocks for so many seconds at most: a collector that hangs delays no stop."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        sending = threading.Thread(target=provider.shutdown, name="send-last-spans", daemon=True)
        sending.start()
        sending.join(seconds)


@contextmanager
def span(
    name: str, *, trace_id: str = "", kind: Kind = "internal", attributes: Mapping[str, Value] | None = None
) -> Iterator[Any]:
    """Open a span around a block, as part of the one around it; costs nothing worth counting while tracing is off.

    Args:
        name: few different ones, such as ``invoke_agent`` (OpenTelemetry's conventions name those of agents).
        trace_id: the trace it belongs to (32 hex digits); when that is not the present one, it begins there anew.
        kind: what the block is to others.
        attributes: what is known at its start; never the text of a conversation.

    Yields:
        The span (``opentelemetry.trace.Span``), or None while tracing is off.
    """
    if _provider is None:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.context import Context

    tracer = _provider.get_tracer("retinue")
    present = trace.get_current_span().get_span_context()
    wanted = int(trace_id, 16) if trace_id else 0
    anew = wanted not in (0, present.trace_id)
    token = _wanted_trace.set(wanted if anew else 0)
    try:
        opened = tracer.start_span(
            name,
            context=Context() if anew else None,
            kind=trace.SpanKind[kind.upper()],
            attributes=dict(attributes or {}),
        )
    finally:
        _wanted_trace.reset(token)
    # An error's text may hold what a person wrote, so the span gets the error's kind only.
    with trace.use_span(opened, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield opened
        except BaseException as error:
            opened.set_attribute("error.type", type(error).__qualname__)
            opened.set_status(trace.StatusCode.ERROR)
            raise
