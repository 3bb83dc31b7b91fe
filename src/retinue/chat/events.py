"""What happens in a conversation: the stream ``session:<id>``."""

from __future__ import annotations

from uuid import UUID

from retinue.ledger import Event, event


@event("session.started", personal=("title",))
class SessionStarted(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A user opened a conversation."""

    owner_id: UUID
    title: str = ""


@event("session.deleted")
class SessionDeleted(Event, frozen=True, kw_only=True):
    """The conversation is no longer shown; what happened in it stays in the ledger."""


@event("message.sent", personal=("content",))
class MessageSent(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A user wrote something to an agent; ``run_id`` answers it."""

    message_id: UUID
    ordinal: int
    content: str
    run_id: UUID
    agent_id: UUID


@event("message.created", personal=("content",))
class MessageCreated(Event, frozen=True, kw_only=True, omit_defaults=True):
    """A run ended; ``content`` is its answer, or says why there is none (then ``status`` is not ``completed``)."""

    message_id: UUID
    ordinal: int
    content: str
    run_id: UUID
    agent_id: UUID
    status: str = "completed"
    demo: bool = False


@event("file.uploaded", personal=("path",))
class FileUploaded(Event, frozen=True, kw_only=True):
    """A user put a file into the session's workspace. ``size`` is in bytes, ``sha256`` in hex."""

    path: str
    size: int
    sha256: str


EVENTS = (SessionStarted, SessionDeleted, MessageSent, MessageCreated, FileUploaded)
