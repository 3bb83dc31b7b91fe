"""Exact-match answers: an equal request of the same agent within its time to live costs nothing.

Off unless an agent's ``cache_seconds`` is above zero. The key is a digest of everything the model would see, so a
changed instruction, tool, message or model is another key; the table is fenced by tenant.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

import msgspec

from retinue.kernel import Scope
from retinue.providers import ModelAnswer, ModelRequest

_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(ModelAnswer)


def digest(request: ModelRequest) -> bytes:
    """Return the SHA-256 of a request in canonical JSON."""
    return hashlib.sha256(_encoder.encode(request)).digest()


async def recall(scope: Scope, request: ModelRequest) -> ModelAnswer | None:
    """Return an answer to an equal request that is still fresh."""
    text: str | None = await scope.queries.fetchval(
        "SELECT answer FROM model_answers WHERE digest = $1 AND expires_at > $2", digest(request), scope.clock.now()
    )
    return _decoder.decode(text) if text is not None else None


async def remember(scope: Scope, request: ModelRequest, answer: ModelAnswer, seconds: int) -> None:
    """Keep an answer for equal requests; drops what has expired on the way."""
    now = scope.clock.now()
    await scope.queries.execute("DELETE FROM model_answers WHERE expires_at <= $1", now)
    await scope.queries.execute(
        "INSERT INTO model_answers (tenant_id, digest, answer, expires_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (tenant_id, digest) DO UPDATE SET answer = $3, expires_at = $4",
        scope.tenant_id,
        digest(request),
        msgspec.json.encode(answer).decode(),
        now + timedelta(seconds=seconds),
    )
