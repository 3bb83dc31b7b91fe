"""Appending and reading streams inside a scope's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from retinue.kernel import Alone, Scope
from retinue.ledger.event import Event, Meta, Recorded, decode, encode, meta_of, type_of
from retinue.ledger.feed import Encoded, Feed
from retinue.ledger.projection import Projections

_PLACES = "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16"
_APPEND = f"SELECT ledger_append({_PLACES})"
_APPEND_ALONE = f"SELECT ledger_append_alone({_PLACES}, $17)"


class _Pending:
    """The appends of one transaction, sent to the database as one call right before the commit.

    When the scope does nothing else, that call is all of the transaction, and may share it with others'.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self.expected: dict[str, int] = {}
        self.next: dict[str, int] = {}
        self.events: list[Recorded[Event]] = []
        self.now = scope.clock.now()  # one time for all that commits together
        scope.uow.before_commit(self._flush, alone=self._alone)

    async def _flush(self) -> None:
        if self.events:
            arguments = self._arguments()
            last: int = await self._scope.queries.fetchval(_APPEND, *arguments)
            self._scope.uow.after_commit(partial(self._committed, arguments, last))

    def _alone(self) -> Alone | None:
        if not self.events:
            return None
        arguments = self._arguments()
        return Alone(self._scope.tenant_id, _APPEND_ALONE, arguments, partial(self._committed, arguments))

    def _arguments(self) -> Sequence[Any]:
        scope, events = self._scope, self.events
        types = [type_of(type(recorded.event)) for recorded in events]
        return (
            scope.tenant_id,
            list(self.expected),
            list(self.expected.values()),
            [recorded.stream for recorded in events],
            [recorded.version for recorded in events],
            [name for name, _ in types],
            [schema for _, schema in types],
            [encode(recorded.event) for recorded in events],
            [recorded.meta.owner for recorded in events],
            [recorded.meta.session for recorded in events],
            [recorded.meta.run for recorded in events],
            scope.actor.kind.value,
            scope.actor.id,
            _as_uuid(scope.trace_id),
            scope.cause or None,
            self.now,
        )

    def _committed(self, arguments: Sequence[Any], last: int) -> None:
        """Hand the events to the feed, as they were stored."""
        first = last - len(self.events) + 1
        encoded = [
            Encoded(
                first + n,
                recorded.version,
                schema,
                recorded.recorded_at,
                recorded.stream,
                recorded.type,
                data,
                recorded.meta,
            )
            for n, (recorded, schema, data) in enumerate(zip(self.events, arguments[6], arguments[7], strict=True))
        ]
        self._scope.service(Feed).committed(self._scope.tenant_id, encoded)


def _as_uuid(trace_id: str) -> UUID | None:
    """Return a W3C trace id, 32 hex digits, as what it is to the database: 128 bits."""
    try:
        return UUID(hex=trace_id) if trace_id else None
    except ValueError:
        return None


async def append(
    scope: Scope,
    stream: str,
    expected_version: int,
    events: Sequence[Event],
    *,
    session_id: UUID | None = None,
    run_id: UUID | None = None,
    owner_id: UUID | None = None,
) -> int:
    """Record facts on ``stream`` and bring the inline views up to date; return the stream's new version.

    The facts are numbered and written when the scope commits. A second append to a stream in the same scope goes on
    after the first, whatever version it expects.

    Args:
        stream: ``kind:id``, such as ``run:0190…``.
        expected_version: the version the decision was based on; 0 for a new stream.
        events: at least one fact.
        session_id: the conversation, for streams to clients.
        run_id: the run, likewise.
        owner_id: whose live stream shows them; by default the scope's user.

    Raises:
        Conflict: at commit, when the stream is no longer at ``expected_version``; nothing is written then.
    """
    pending = scope.uow.attach(_Pending, partial(_Pending, scope))
    pending.expected.setdefault(stream, expected_version)
    version = pending.next.get(stream, expected_version)
    batch: list[Recorded[Event]] = []
    for fact in events:
        version += 1
        meta = Meta(
            actor=str(scope.actor),
            owner=owner_id or scope.user_id,
            session=session_id,
            run=run_id,
            trace="" if pending.events or batch else scope.trace_id,
            cause="" if pending.events or batch else scope.cause,
        )
        batch.append(Recorded(scope.tenant_id, None, stream, version, type_of(type(fact))[0], fact, meta, pending.now))
    pending.next[stream] = version
    pending.events.extend(batch)
    await scope.service(Projections).apply(scope, stream, batch)
    return version


async def read_stream(scope: Scope, stream: str, after: int = 0, upto: int | None = None) -> list[Recorded[Event]]:
    """Return the committed events of ``stream`` with ``after < version <= upto``, oldest first."""
    rows = await scope.queries.fetch(
        "SELECT position, version, schema, recorded_at, type, data, actor, actor_id, owner_id, session_id, run_id, "
        "trace_id, cause FROM events "
        # tenant: explicit, so that the planner uses the index for the stream
        "WHERE tenant_id = $1 AND stream = $2 AND version > $3 AND version <= $4 ORDER BY version",
        scope.tenant_id,
        stream,
        after,
        2**31 - 1 if upto is None else upto,
    )
    return [
        Recorded(
            scope.tenant_id,
            row["position"],
            stream,
            row["version"],
            row["type"],
            decode(row["type"], row["schema"], row["data"]),
            meta_of(*(row[n] for n in range(6, 13))),
            row["recorded_at"],
        )
        for row in rows
    ]


async def stream_version(scope: Scope, stream: str) -> int:
    """Return the committed version of ``stream``; 0 when it does not exist."""
    version: int | None = await scope.queries.fetchval(
        # tenant: explicit, so that the planner uses the index for the stream
        "SELECT version FROM events WHERE tenant_id = $1 AND stream = $2 ORDER BY version DESC LIMIT 1",
        scope.tenant_id,
        stream,
    )
    return version or 0
