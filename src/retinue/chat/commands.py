"""What changes conversations: open, send, upload, delete; and the session's side of a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from retinue import agents, planning, runs
from retinue.chat import views
from retinue.chat.events import FileUploaded, MessageCreated, MessageSent, SessionDeleted, SessionStarted
from retinue.chat.views import ChatMessage, ChatSession
from retinue.kernel import Conflict, NotFound, Scope, new_id
from retinue.ledger import Event, append, stream_version
from retinue.providers import Message, Text
from retinue.runs import EndedRun, Started
from retinue.tools import Upload

Multitask = Literal["enqueue", "reject", "interrupt"]

HISTORY = 200  # messages of a session that a run sees at most
_MOST_OPEN = 1000  # runs and plans of a session that are cancelled with it


def stream_of(session_id: UUID) -> str:
    """Name a session's stream."""
    return f"session:{session_id}"


@dataclass(frozen=True, slots=True)
class Sent:
    """An accepted message and the run that answers it."""

    session_id: UUID
    message_id: UUID
    run: Started


async def open_session(scope: Scope, title: str) -> UUID:
    """Open a conversation."""
    session_id = new_id()
    await append(
        scope,
        stream_of(session_id),
        0,
        [SessionStarted(owner_id=scope.owner(), title=title)],
        session_id=session_id,
    )
    return session_id


async def send_message(
    scope: Scope, session_id: UUID, content: str, target: str | None, multitask: Multitask, priority: int | None
) -> Sent:
    """Accept a message and start the run that answers it. A session that does not exist is opened.

    Without a ``target`` it goes to the orchestrator, who plans what the team does.

    In a busy session the run waits behind those that wait already; with ``interrupt`` it goes before them, and the run
    that has the session is cancelled.

    Raises:
        NotFound: no such agent, or somebody else's session.
        Conflict: the session is busy and ``multitask`` is ``reject``.
        TooManyRequests: the agent's lane is full.
        BudgetExhausted: no money is left.
    """
    session = await own_session(scope, session_id)
    agent = await planning.find_orchestrator(scope) if target is None else await agents.find(scope, target)
    busy = session is not None and session.active_run_id is not None
    if busy and multitask == "reject":
        raise Conflict("The session is busy with another message. Wait for it, or send multitask=enqueue.")
    run_id, message_id = new_id(), new_id()
    ordinal = session.messages + 1 if session else 1
    facts: list[Event] = [] if session else [SessionStarted(owner_id=scope.owner())]
    facts.append(
        MessageSent(message_id=message_id, ordinal=ordinal, content=content, run_id=run_id, agent_id=agent.agent_id)
    )
    version = session.version if session else 0
    await append(scope, stream_of(session_id), version, facts, session_id=session_id, run_id=run_id)
    started = await runs.start_run(
        scope,
        run_id=run_id,
        session_id=session_id,
        message_id=message_id,
        agent_id=agent.agent_id,
        agent_version=agent.version,
        agent=agent.definition,
        history=ordinal,
        priority=agent.definition.priority if priority is None else priority,
        blocked=busy,
    )
    if busy and session is not None and session.active_run_id is not None:
        await views.take_turn(scope, session_id, run_id, first=multitask == "interrupt")
        if multitask == "interrupt":
            await _interrupt(scope, session.active_run_id)
    return Sent(session_id, message_id, started)


async def own_session(scope: Scope, session_id: UUID) -> ChatSession | None:
    """Return a session of the scope's user, locked; None: there is none, and the user may open it.

    Work items and plans have workspaces under their own ids. Whoever opened a session of such an id would be in them.

    Raises:
        NotFound: it is somebody else's, or the id is a work item's or somebody else's plan's.
    """
    session = await views.lock_session(scope, session_id)
    if session is not None:
        if session.owner_id != scope.owner():
            raise NotFound("session")
        return session
    if await stream_version(scope, f"item:{session_id}"):
        raise NotFound("session")
    if await stream_version(scope, f"plan:{session_id}"):
        plan = await planning.find_plan(scope, session_id)
        if plan.owner_id != scope.owner():
            raise NotFound("session")
    return None


async def _interrupt(scope: Scope, run_id: UUID) -> None:
    # A conflict means that it ended by itself meanwhile: then its end lets the next one go on.
    with suppress(Conflict):
        await runs.cancel(scope, run_id, "interrupted by the next message")


async def delete_session(scope: Scope, session_id: UUID) -> None:
    """Take a conversation out of sight and cancel what still runs in it."""
    session = await views.find_session(scope, session_id)
    locked = await views.lock_session(scope, session_id)
    await _cancel_all(scope, session_id)
    fresh = await views.lock_session(scope, session_id)
    version = (fresh or locked or session).version
    await append(scope, stream_of(session_id), version, [SessionDeleted()], session_id=session_id)


async def _cancel_all(scope: Scope, session_id: UUID) -> None:
    """End the session's own runs, with all that they have handed on, and then the plans that work on its files."""
    why = "its session was deleted"
    for status in (runs.Status.QUEUED, runs.Status.WAITING, runs.Status.RUNNING):
        for run in await runs.list_runs(
            scope, scope.owner(), before=None, limit=_MOST_OPEN, status=status, session_id=session_id
        ):
            if run.parent is None:
                # The look locks nothing: a run may have ended by itself meanwhile.
                with suppress(Conflict):
                    await runs.cancel(scope, run.run_id, why)
    for open_plan in (planning.PlanStatus.WAITING, planning.PlanStatus.RUNNING):
        for plan in await planning.list_plans(
            scope, scope.owner(), before=None, limit=_MOST_OPEN, status=open_plan, session_id=session_id
        ):
            if plan.parent is None:
                await planning.cancel_plan(scope, plan.plan_id, why)


async def note_upload(scope: Scope, session_id: UUID, upload: Upload) -> None:
    """Record that a file was put into the session's workspace. A session that does not exist is opened."""
    session = await own_session(scope, session_id)
    facts: list[Event] = [] if session else [SessionStarted(owner_id=scope.owner())]
    facts.append(FileUploaded(path=upload.path, size=upload.size, sha256=upload.sha256))
    await append(scope, stream_of(session_id), session.version if session else 0, facts, session_id=session_id)


class ChatConversation:
    """The session's side of runs (:class:`retinue.runs.Conversation`)."""

    async def history(self, scope: Scope, session_id: UUID, upto: int) -> Sequence[Message]:
        """Return the questions up to an ordinal, each with its answer; those that were never answered are left out."""
        found = await views.said_before(scope, session_id, upto, HISTORY)
        answered = {message.run_id for message in found if message.role == "assistant"}
        return [_as_message(one) for one in found if one.ordinal == upto or one.run_id in answered]

    async def check_owner(self, scope: Scope, session_id: UUID) -> None:
        """Refuse a session that is not the scope's user's."""
        await views.find_session(scope, session_id)

    async def lock(self, scope: Scope, session_id: UUID) -> None:
        """Lock the session's row."""
        await views.session_of_run(scope, session_id)

    async def reopen(self, scope: Scope, session_id: UUID, run_id: UUID) -> bool:
        """Give the session to a run that is retried, or put it in line."""
        session = await views.session_of_run(scope, session_id)
        if session.active_run_id is not None:
            await views.take_turn(scope, session_id, run_id)
            return False
        await views.give_turn(scope, session_id, run_id)
        return True

    async def ended(self, scope: Scope, ended: EndedRun) -> None:
        """Record the reply and give the session to the next run in line."""
        session: ChatSession = await views.session_of_run(scope, ended.session_id)
        reply = MessageCreated(
            message_id=ended.reply_id,
            ordinal=session.messages + 1,
            content=ended.text,
            run_id=ended.run_id,
            agent_id=ended.agent_id,
            status=ended.status,
            demo=ended.demo,
        )
        await append(
            scope,
            stream_of(ended.session_id),
            session.version,
            [reply],
            session_id=ended.session_id,
            run_id=ended.run_id,
            owner_id=ended.owner_id,
        )
        if not session.line:
            return
        free = session.active_run_id in (None, ended.run_id)
        lucky = await views.next_turn(scope, ended.session_id, ended.run_id, free=free)
        if lucky is not None:
            await runs.unblock(scope, lucky)


def _as_message(message: ChatMessage) -> Message:
    if message.role == "user":
        return Message(role="user", parts=[Text(message.content)])
    text = message.content if message.status == "completed" else f"[no answer: {message.content}]"
    return Message(role="assistant", parts=[Text(text or "(empty)")])
