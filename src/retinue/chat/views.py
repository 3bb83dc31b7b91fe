"""Sessions and messages as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from retinue.chat.events import MessageCreated, MessageSent, SessionDeleted, SessionStarted
from retinue.kernel import NotFound, Row, Scope
from retinue.ledger import Event, Recorded, StreamProjection


@dataclass(frozen=True, slots=True)
class ChatSession:
    """A conversation; ``active_run_id`` is the run that writes in it now, ``line`` how many wait for their turn."""

    session_id: UUID
    owner_id: UUID
    title: str
    version: int
    messages: int
    active_run_id: UUID | None
    created_at: datetime
    changed_at: datetime
    line: int


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One finished utterance."""

    ordinal: int
    message_id: UUID
    role: str
    status: str
    content: str
    run_id: UUID | None
    agent_id: UUID | None
    created_at: datetime


_SESSION = "session_id, owner_id, title, version, messages, active_run_id, created_at, changed_at, line"
_LONGEST_TITLE = 60  # of a title that is taken from a message
_MESSAGE = "ordinal, message_id, role, status, content, run_id, agent_id, created_at"


def _session(row: Row) -> ChatSession:
    return ChatSession(*(row[n] for n in range(9)))


def _message(row: Row) -> ChatMessage:
    return ChatMessage(*(row[n] for n in range(8)))


async def project_session(scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
    """Bring a session's row and its messages up to date."""
    session_id = UUID(batch[0].stream.partition(":")[2])
    first = batch[0].event
    if isinstance(first, SessionStarted):
        await scope.queries.execute(
            "INSERT INTO sessions (tenant_id, session_id, owner_id, title, created_at, changed_at, version) "
            "VALUES ($1, $2, $3, $4, $5, $5, $6)",
            scope.tenant_id,
            session_id,
            first.owner_id,
            first.title,
            batch[0].recorded_at,
            batch[0].version,
        )
    for recorded in batch:
        if not isinstance(recorded.event, SessionStarted):
            await _project_one(scope, session_id, recorded)


async def _project_one(scope: Scope, session_id: UUID, recorded: Recorded[Event]) -> None:
    fact = recorded.event
    if isinstance(fact, MessageSent | MessageCreated):
        await _insert_message(scope, session_id, recorded, fact)
    starts = fact.run_id if isinstance(fact, MessageSent) else None
    ends = fact.run_id if isinstance(fact, MessageCreated) else None
    await scope.queries.execute(
        "UPDATE sessions SET version = $2, changed_at = $3, messages = greatest(messages, $4), "
        "deleted = deleted OR $7, title = CASE WHEN title = '' THEN $8 ELSE title END, active_run_id = CASE "
        "  WHEN $5::uuid IS NOT NULL THEN coalesce(active_run_id, $5) "
        "  WHEN active_run_id = $6 THEN NULL ELSE active_run_id END "
        "WHERE session_id = $1",
        session_id,
        recorded.version,
        recorded.recorded_at,
        fact.ordinal if isinstance(fact, MessageSent | MessageCreated) else 0,
        starts,
        ends,
        isinstance(fact, SessionDeleted),
        _title_of(fact.content) if isinstance(fact, MessageSent) else "",
    )


def _title_of(content: str) -> str:
    """Return what a session is called that nobody gave a title: the first line of what was asked."""
    line = " ".join(next(filter(str.strip, content.splitlines()), "").split())
    return line if len(line) <= _LONGEST_TITLE else f"{line[: _LONGEST_TITLE - 1].rstrip()}…"


async def _insert_message(
    scope: Scope, session_id: UUID, recorded: Recorded[Event], fact: MessageSent | MessageCreated
) -> None:
    sent = isinstance(fact, MessageSent)
    await scope.queries.execute(
        "INSERT INTO messages (tenant_id, session_id, ordinal, message_id, role, status, content, run_id, agent_id, "
        "created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        scope.tenant_id,
        session_id,
        fact.ordinal,
        fact.message_id,
        "user" if sent else "assistant",
        fact.status if isinstance(fact, MessageCreated) else "sent",
        fact.content,
        fact.run_id,
        fact.agent_id,
        recorded.recorded_at,
    )


PROJECTIONS = (StreamProjection("session", project_session),)


# Queries


async def lock_session(scope: Scope, session_id: UUID) -> ChatSession | None:
    """Return the session with its row locked: one writer at a time, also of one that does not exist yet (None).

    Raises:
        NotFound: it was deleted.
    """
    query = f"SELECT {_SESSION}, deleted FROM sessions WHERE session_id = $1 FOR UPDATE"
    row = await scope.queries.fetchrow(query, session_id)
    if row is None:
        # There is no row to lock, and two first messages may come at once: the second one waits here and finds it.
        await scope.queries.execute("SELECT pg_advisory_xact_lock(uuid_hash_extended($1, 11))", session_id)
        row = await scope.queries.fetchrow(query, session_id)
    if row is not None and row["deleted"]:
        raise NotFound("session")
    return _session(row) if row is not None else None


async def session_of_run(scope: Scope, session_id: UUID) -> ChatSession:
    """Return a session for a run that ends in it, locked; also a deleted one."""
    row = await scope.queries.fetchrow(f"SELECT {_SESSION} FROM sessions WHERE session_id = $1 FOR UPDATE", session_id)
    if row is None:
        raise NotFound("session")
    return _session(row)


async def find_session(scope: Scope, session_id: UUID) -> ChatSession:
    """Return one of the user's own sessions.

    Raises:
        NotFound: the user has no such session.
    """
    row = await scope.queries.fetchrow(
        f"SELECT {_SESSION} FROM sessions WHERE session_id = $1 AND owner_id = $2 AND NOT deleted",
        session_id,
        scope.owner(),
    )
    if row is None:
        raise NotFound("session")
    return _session(row)


async def list_sessions(scope: Scope, before: UUID | None, limit: int) -> list[ChatSession]:
    """Return the user's sessions, newest first."""
    rows = await scope.queries.fetch(
        f"SELECT {_SESSION} FROM sessions WHERE owner_id = $1 AND NOT deleted "
        "AND ($2::uuid IS NULL OR session_id < $2) ORDER BY session_id DESC LIMIT $3",
        scope.owner(),
        before,
        limit,
    )
    return [_session(row) for row in rows]


async def list_messages(scope: Scope, session_id: UUID, after: int, limit: int) -> list[ChatMessage]:
    """Return a session's messages in order, after an ordinal."""
    rows = await scope.queries.fetch(
        f"SELECT {_MESSAGE} FROM messages WHERE session_id = $1 AND ordinal > $2 ORDER BY ordinal LIMIT $3",
        session_id,
        after,
        limit,
    )
    return [_message(row) for row in rows]


async def said_before(scope: Scope, session_id: UUID, upto: int, limit: int) -> list[ChatMessage]:
    """Return the newest questions with ``ordinal <= upto`` and the answers to those before it, pair by pair.

    A question that waited for its turn has a lower ordinal than the answer to its predecessor, so the pairs are
    ordered by the question. What is returned does not change while the run of the question ``upto`` has the session.
    """
    rows = await scope.queries.fetch(
        f"SELECT {_MESSAGE} FROM (SELECT m.*, coalesce(q.ordinal, m.ordinal) AS turn FROM messages m "
        "  LEFT JOIN messages q ON q.tenant_id = m.tenant_id AND q.session_id = m.session_id "
        "    AND q.run_id = m.run_id AND q.role = 'user' AND m.role = 'assistant' "
        "  WHERE m.session_id = $1 AND m.ordinal > $2 - 2 * $3 "
        "    AND CASE WHEN m.role = 'user' THEN m.ordinal <= $2 ELSE q.ordinal < $2 END) AS said "
        "ORDER BY turn DESC, ordinal DESC LIMIT $3",
        session_id,
        upto,
        limit,
    )
    return [_message(row) for row in reversed(rows)]


async def find_message(scope: Scope, session_id: UUID, message_id: UUID) -> ChatMessage | None:
    """Return one message of a session."""
    row = await scope.queries.fetchrow(
        f"SELECT {_MESSAGE} FROM messages WHERE session_id = $1 AND message_id = $2", session_id, message_id
    )
    return _message(row) if row is not None else None


# Turns


async def take_turn(scope: Scope, session_id: UUID, run_id: UUID, *, first: bool = False) -> None:
    """Put a run in the session's line, by its age or before everybody; the session's row is locked."""
    await scope.queries.execute(
        "INSERT INTO session_turns (tenant_id, session_id, run_id, place) VALUES ($1, $2, $3, CASE WHEN $4 "
        "  THEN (SELECT coalesce(min(place), 0) - 1 FROM session_turns WHERE session_id = $2) ELSE 0 END)",
        scope.tenant_id,
        session_id,
        run_id,
        first,
    )
    await _change_line(scope, session_id, +1)


async def next_turn(scope: Scope, session_id: UUID, ended: UUID, *, free: bool) -> UUID | None:
    """Take ``ended`` out of the line; when the session is free, also take out and return the run whose turn it is."""
    rows = await scope.queries.fetch(
        "SELECT run_id FROM session_turns WHERE session_id = $1 ORDER BY place, run_id LIMIT 2", session_id
    )
    lucky = next((row[0] for row in rows if row[0] != ended), None) if free else None
    gone = await scope.queries.fetch(
        "DELETE FROM session_turns WHERE session_id = $1 AND run_id = ANY($2) RETURNING run_id",
        session_id,
        [run_id for run_id in (ended, lucky) if run_id is not None],
    )
    await _change_line(scope, session_id, -len(gone))
    if lucky is not None:
        await give_turn(scope, session_id, lucky)
    return lucky


async def give_turn(scope: Scope, session_id: UUID, run_id: UUID) -> None:
    """Make a run the one that writes in the session."""
    await scope.queries.execute("UPDATE sessions SET active_run_id = $2 WHERE session_id = $1", session_id, run_id)


async def _change_line(scope: Scope, session_id: UUID, by: int) -> None:
    # The count stands in the session's own row: whoever waited for its lock reads it as it is now, which a look into
    # session_turns in the same statement would not.
    await scope.queries.execute("UPDATE sessions SET line = line + $2 WHERE session_id = $1", session_id, by)
