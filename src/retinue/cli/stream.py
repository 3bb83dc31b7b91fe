"""The live stream of events (server-sent events, HTML Living Standard 9.2), resumed where it broke."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import httpx

from retinue.cli.client import Client
from retinue.cli.failures import ExitCode, Failure, Refusal
from retinue.cli.screen import Json

PATH = "/v1/my/events/stream"
_AWAY_SECONDS = 120.0
"""How long a server may be away before following it is given up."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event or frame. ``position`` is where to resume after it; None for a frame (``message_delta``).

    ``at`` is when it happened, as ISO 8601.
    """

    name: str
    position: str | None
    payload: Json
    run_id: str | None
    session_id: str | None
    at: str | None = None


class TooFarBehind(Exception):
    """The place to resume from is no longer kept; what happened since must be asked for."""


def parse(chunks: Iterable[bytes]) -> Iterator[LiveEvent]:
    """Read events from the bytes of a stream. Comments and unknown fields are passed over."""
    name, position = "message", ""
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield _event(name, position, "\n".join(data))
            name, position, data = "message", "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            position = value
        elif field == "data":
            data.append(value)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Split as bytes: JSON may hold U+2028 and other line ends of Unicode as they are.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode("utf-8", errors="replace")


def _event(name: str, position: str, data: str) -> LiveEvent:
    body = json.loads(data)
    return LiveEvent(
        name=str(body.get("event_type") or name),
        position=position or None,
        payload=body.get("payload") or {},
        run_id=body.get("run_id"),
        session_id=body.get("session_id"),
        at=body.get("timestamp"),
    )


def live_events(
    client: Client,
    *,
    after: str | None = None,
    away: Callable[[bool], None] = lambda gone: None,
    path: str = PATH,
    **filters: object,
) -> Iterator[LiveEvent | None]:
    """Yield events for ever, without gap or duplicate across broken connections and server restarts.

    ``None`` is yielded each time a connection stands, before its first event: a good moment to look at the state.

    Args:
        after: the position to begin after; None for now.
        away: called with True when the server is gone and with False when it is back.
        path: of the stream; by default everything that is the caller's.
        filters: ``run``, ``session``, ``types``.

    Raises:
        TooFarBehind: ``after`` is older than what is kept.
        Failure: the server stays away, or refuses.
    """
    position, gone_since = after, 0.0
    while True:
        try:
            headers = {"Last-Event-ID": position} if position else {}
            with client.streaming(path, {**filters, "after": position}, headers) as response:
                if gone_since:
                    away(False)
                gone_since = 0.0
                yield None
                for event in parse(response.iter_bytes()):
                    position = event.position or position
                    yield event
        except Refusal as refusal:
            if refusal.status == 410:
                raise TooFarBehind from None
            if refusal.code is not ExitCode.UNAVAILABLE:
                raise
        except httpx.TransportError:
            pass  # told below, and tried again
        if not gone_since:
            gone_since = time.monotonic()
            away(True)
        if time.monotonic() - gone_since > _AWAY_SECONDS:
            raise Failure(f"{client.server} went away and did not come back.", ExitCode.UNAVAILABLE)
        time.sleep(0.2)
