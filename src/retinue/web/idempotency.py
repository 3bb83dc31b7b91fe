"""``Idempotency-Key`` on every POST of a signed-in caller: one key makes one thing, however often it is sent.

The key's row is inserted in the transaction of the request itself, and the answer is stored there right before the
commit. So a request that was rolled back leaves nothing, and one that committed can be answered again, also when the
process died between the commit and the answer. A repetition that comes while the first is still at work waits for it
(in this process by a lock, across processes by the row), and then gets its answer.

Answers may hold secrets that exist nowhere else in the clear, such as a new API key. They are stored encrypted with a
key derived from the caller's own idempotency key, of which the row holds only a digest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.requests import HTTPConnection
from starlette.responses import Response

from retinue.kernel import BadInput, Conflict, Scope
from retinue.web.exchange import Exchange

KEPT_HOURS = 24
MAX_KEY = 255
_NONCE = 12
# Not part of the answer: the framework and the middleware write them anew.
_FRESH_HEADERS = frozenset({b"content-length", b"date", b"traceparent"})


class StoredAnswer(msgspec.Struct, array_like=True):
    """An answer as it is kept: status, headers as sent, body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def response(self) -> Response:
        """Return it as a response, marked as a repetition."""
        response = Response(self.body, self.status)
        response.raw_headers = [
            *self.headers,
            (b"content-length", str(len(self.body)).encode()),
            (b"idempotency-replayed", b"true"),
        ]
        return response


class Replayed(Exception):
    """Not an error: the request was done before, and this is its answer."""

    def __init__(self, answer: StoredAnswer) -> None:
        super().__init__("answered before")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Repeatable:
    """One request with an idempotency key."""

    key: str
    fingerprint: bytes

    def _digest(self, scope: Scope) -> bytes:
        # Each application has keys of its own: one must not get the answer that its user or another one got.
        whose = b"" if scope.grant_id is None else b"\0" + scope.grant_id.bytes
        return hashlib.sha256(b"retinue idempotency key\0" + self.key.encode() + whose).digest()

    def _cipher(self, scope: Scope) -> AESGCM:
        salt = scope.tenant_id.bytes + scope.owner().bytes
        return AESGCM(HKDF(SHA256(), 32, salt, b"retinue idempotency answer").derive(self.key.encode()))

    async def begin(self, scope: Scope) -> None:
        """Claim the key, waiting for whoever holds it.

        Raises:
            Replayed: the request was done before.
            BadInput: the key was used for another request.
            Conflict: it was done before, and its answer was not one that can be kept.
        """
        claimed = await scope.queries.fetchval(
            # Old rows of the tenant go along with new ones, a few at a time; rows that others clear away are skipped.
            f"""
            WITH old AS (
                DELETE FROM idempotency_keys WHERE (user_id, key) IN (
                    SELECT user_id, key FROM idempotency_keys
                    WHERE created_at < now() - interval '{KEPT_HOURS} hours' AND (user_id, key) <> ($2, $3)
                    LIMIT 20 FOR UPDATE SKIP LOCKED))
            INSERT INTO idempotency_keys AS k (tenant_id, user_id, key, fingerprint) VALUES ($1, $2, $3, $4)
            ON CONFLICT (tenant_id, user_id, key) DO UPDATE
                SET fingerprint = excluded.fingerprint, answer = NULL, created_at = excluded.created_at
                WHERE k.created_at < now() - interval '{KEPT_HOURS} hours'
            RETURNING true
            """,
            scope.tenant_id,
            scope.owner(),
            self._digest(scope),
            self.fingerprint,
        )
        if not claimed:
            await self._replay(scope)

    async def _replay(self, scope: Scope) -> None:
        row = await scope.queries.fetchrow(
            "SELECT fingerprint, answer FROM idempotency_keys WHERE user_id = $1 AND key = $2",
            scope.owner(),
            self._digest(scope),
        )
        if row is None:
            raise Conflict("This Idempotency-Key has just expired. Send the request with a new one.")
        if row["fingerprint"] != self.fingerprint:
            raise BadInput(
                "This Idempotency-Key was used for another request. Use a new key for a new request.",
                field="Idempotency-Key",
            )
        if row["answer"] is None:
            raise Conflict("This request was done before, and its answer is of a kind that is not kept.")
        raise Replayed(self._open(scope, row["answer"]))

    def _open(self, scope: Scope, sealed: bytes) -> StoredAnswer:
        try:
            plain = self._cipher(scope).decrypt(sealed[:_NONCE], sealed[_NONCE:], self.fingerprint)
        except InvalidTag:
            raise Conflict("This request was done before, and its stored answer cannot be read.") from None
        return msgspec.msgpack.decode(plain, type=StoredAnswer)

    async def keep(self, scope: Scope, answer: Any) -> None:
        """Store the answer; one without a finished body (a stream) is not kept."""
        body = getattr(answer, "body", None)
        if not isinstance(answer, Response) or not isinstance(body, bytes):
            return
        headers = [(name, value) for name, value in answer.raw_headers if name not in _FRESH_HEADERS]
        plain = msgspec.msgpack.encode(StoredAnswer(answer.status_code, headers, body))
        nonce = os.urandom(_NONCE)
        await scope.queries.execute(
            "UPDATE idempotency_keys SET answer = $3 WHERE user_id = $1 AND key = $2",
            scope.owner(),
            self._digest(scope),
            nonce + self._cipher(scope).encrypt(nonce, plain, self.fingerprint),
        )


class _Turn:
    """A lock and how many hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Idempotency:
    """The idempotent requests at work in this process; a service."""

    def __init__(self) -> None:
        self._at_work: dict[tuple[str, UUID, str], _Turn] = {}

    @asynccontextmanager
    async def turn(
        self, connection: HTTPConnection, exchange: Exchange, tenant_id: UUID
    ) -> AsyncIterator[Repeatable | None]:
        """Wait until no other request of this caller with the same key is at work here; None without a key.

        Waiting here and not in the database keeps repetitions from holding connections that the first one needs.

        Raises:
            BadInput: the key is empty, too long, or holds characters that are not printable.
        """
        repeatable = _read(connection, exchange)
        if repeatable is None:
            yield None
            return
        name = (exchange.caller().subject, tenant_id, repeatable.key)
        turn = self._at_work.setdefault(name, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield repeatable
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._at_work[name]


def _read(connection: HTTPConnection, exchange: Exchange) -> Repeatable | None:
    if connection.scope.get("method") != "POST":
        return None
    key = connection.headers.get("idempotency-key")
    if key is None:
        return None
    key = key.strip().strip('"')
    if not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise BadInput(f"Send 1 to {MAX_KEY} printable ASCII characters.", field="Idempotency-Key")
    scope = connection.scope
    digest = hashlib.sha256()
    # A form's body is left out: its boundary differs between tries of the same client.
    for part in (scope["path"].encode(), scope["query_string"], exchange.body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return Repeatable(key, digest.digest())
