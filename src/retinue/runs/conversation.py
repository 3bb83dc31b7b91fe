"""What a run needs of the conversation it belongs to; the chat room provides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from retinue.kernel import Scope
from retinue.providers import Message
from retinue.runs.rules import Status


@dataclass(frozen=True, slots=True)
class EndedRun:
    """How a run ended. ``text`` is its answer, or for a person what went wrong."""

    run_id: UUID
    session_id: UUID
    reply_id: UUID
    agent_id: UUID
    owner_id: UUID
    status: Status
    text: str
    demo: bool


class Conversation(Protocol):
    """The session's side of a run."""

    async def history(self, scope: Scope, session_id: UUID, upto: int) -> Sequence[Message]:
        """Return the session's messages up to an ordinal, oldest first."""
        ...

    async def check_owner(self, scope: Scope, session_id: UUID) -> None:
        """Let only the session's owner have others work on its files.

        Raises:
            NotFound: the scope's user has no such session.
        """
        ...

    async def lock(self, scope: Scope, session_id: UUID) -> None:
        """Lock the session's row. Whoever changes a session and a run locks them in this order: no deadlocks."""
        ...

    async def reopen(self, scope: Scope, session_id: UUID, run_id: UUID) -> bool:
        """Let a run that had ended write again; False when it must wait for its turn (``unblock`` follows)."""
        ...

    async def ended(self, scope: Scope, ended: EndedRun) -> None:
        """Record the reply and let the session's next run go on, in the transaction that ends the run."""
        ...
