"""The doors to conversations: sessions, messages and files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import File, Form, Query, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from retinue.chat import commands, views
from retinue.chat.commands import Multitask, Sent
from retinue.chat.views import ChatMessage, ChatSession
from retinue.chat.waiting import wait_for_end
from retinue.database import open_scope
from retinue.kernel import Actor, ActorKind, BadInput, Scope, Services, Settings, parse_id
from retinue.runs import RunView, find_run, present
from retinue.tools import Entry, Workspace, save_upload
from retinue.web import Deferred, Page, Router, WantedPage, problems, scoped

router = Router(prefix="/v1/my/chat", tags=["chat"], responses=problems(404))

LONGEST_WAIT = 600.0
_PIECE = 1 << 20


class NewSession(BaseModel):
    """A conversation to be opened."""

    model_config = ConfigDict(extra="forbid")
    title: str = Field(
        default="",
        max_length=200,
        description="without one it gets the first line of the first message",
        examples=["The release notes"],
    )


class SessionView(BaseModel):
    """A conversation."""

    session_id: UUID
    title: str
    messages: int
    active_run_id: UUID | None = Field(description="the run that writes in it now")
    created_at: datetime
    changed_at: datetime


class NewMessage(BaseModel):
    """A message to an agent, or to the team."""

    model_config = ConfigDict(extra="forbid")
    content: str = Field(min_length=1, max_length=100_000, examples=["What do these files say about backups?"])
    target_agent: str | None = Field(
        default=None,
        max_length=200,
        description="id or name of one of your agents; without it the orchestrator plans what your team does",
        examples=["librarian"],
    )
    multitask: Multitask = Field(
        default="enqueue", description="when the session is busy: wait for it, refuse, or cancel what runs"
    )
    priority: int | None = Field(default=None, ge=-100, le=100, description="higher goes first in the agent's lane")


class Accepted(BaseModel):
    """A message that was accepted: it will be answered whatever happens to this server."""

    message_id: UUID
    run_id: UUID
    session_id: UUID
    reply_id: UUID = Field(description="the message that will hold the answer")
    status: str
    url: str
    stream: str


class MessageView(BaseModel):
    """One finished utterance."""

    message_id: UUID
    ordinal: int
    role: str = Field(description="user or assistant")
    status: str = Field(description="sent; or how the run that answers ended")
    content: str
    run_id: UUID | None
    agent_id: UUID | None
    created_at: datetime


class Answered(BaseModel):
    """A run that has ended and its answer."""

    run: RunView
    message: MessageView


class FileView(BaseModel):
    """A file of a session's workspace."""

    path: str
    size: int
    sha256: str | None = None
    changed_at: datetime | None = None


class Files(BaseModel):
    """The files of a session."""

    items: list[FileView]


def _show_session(session: ChatSession) -> SessionView:
    return SessionView(
        session_id=session.session_id,
        title=session.title,
        messages=session.messages,
        active_run_id=session.active_run_id,
        created_at=session.created_at,
        changed_at=session.changed_at,
    )


def _show_message(message: ChatMessage) -> MessageView:
    return MessageView(
        message_id=message.message_id,
        ordinal=message.ordinal,
        role=message.role,
        status=message.status,
        content=message.content,
        run_id=message.run_id,
        agent_id=message.agent_id,
        created_at=message.created_at,
    )


@router.post("", status_code=201)
async def open_session(
    scope: Annotated[Scope, scoped("sessions", "create")], body: NewSession | None = None
) -> SessionView:
    """Open a conversation."""
    session_id = await commands.open_session(scope, body.title if body else "")
    return _show_session(await views.find_session(scope, session_id))


@router.get("")
async def list_sessions(scope: Annotated[Scope, scoped("sessions", "list")], page: WantedPage) -> Page[SessionView]:
    """List your conversations, newest first."""
    before = page.after_one(UUID)
    rows = await views.list_sessions(scope, before, page.limit + 1)
    return page.page(rows, _show_session, lambda session: (session.session_id,))


@router.get("/{session_id}")
async def show_session(scope: Annotated[Scope, scoped("sessions", "read")], session_id: str) -> SessionView:
    """Show one conversation."""
    return _show_session(await views.find_session(scope, parse_id(session_id, "session")))


@router.delete("/{session_id}", status_code=204, responses=problems(409))
async def delete_session(scope: Annotated[Scope, scoped("sessions", "delete")], session_id: str) -> None:
    """Delete a conversation; what still runs in it is cancelled."""
    await commands.delete_session(scope, parse_id(session_id, "session"))


_SENT: dict[int | str, dict[str, Any]] = {
    200: {"model": Answered, "description": "With `wait=true`: the run has ended"}
}


@router.post(
    "/{session_id}/messages",
    status_code=202,
    response_model=Accepted,
    responses=_SENT | problems(402, 409),
)
async def send_message(
    scope: Annotated[Scope, scoped("messages", "create")],
    session_id: str,
    body: NewMessage,
    wait: Annotated[bool, Query(description="answer when the run has ended, or the time is up")] = False,
    timeout: Annotated[float, Query(gt=0, le=LONGEST_WAIT, description="seconds to wait")] = 120,
) -> Response | Accepted:
    """Send a message to an agent, or to your team.

    The answer comes on the stream, as a message, or with `wait=true` right here.
    """
    sent = await commands.send_message(
        scope, parse_id(session_id, "session"), body.content, body.target_agent, body.multitask, body.priority
    )
    after = await _position(scope)
    accepted = _accepted(sent, after)
    if not wait:
        return accepted
    waiter = _Waiter(scope, sent, after, timeout)
    return Deferred(accepted.model_dump(mode="json"), waiter.answer, status_code=202)


async def _position(scope: Scope) -> int:
    """Return the tenant's position before this request's own events, so that the stream shows all of them."""
    found: int | None = await scope.queries.fetchval("SELECT position FROM heads")
    return found or 0


def _accepted(sent: Sent, after: int) -> Accepted:
    run = sent.run
    return Accepted(
        message_id=sent.message_id,
        run_id=run.run_id,
        session_id=sent.session_id,
        reply_id=run.reply_id,
        status=run.status,
        url=f"/v1/my/runs/{run.run_id}",
        stream=f"/v1/my/events/stream?run={run.run_id}&after={after}",
    )


class _Waiter:
    """Waits for a run's end after the request's scope has committed, then reads the answer in a scope of its own."""

    def __init__(self, scope: Scope, sent: Sent, after: int, seconds: float) -> None:
        self._services: Services = scope.services
        self._tenant_id = scope.tenant_id
        self._user_id = scope.user_id
        self._sent = sent
        self._after = after
        self._seconds = seconds

    async def answer(self) -> Response | None:
        run_id = self._sent.run.run_id
        ended = await wait_for_end(self._services, self._tenant_id, run_id, self._after, self._seconds)
        if not ended:
            return None
        actor = Actor(ActorKind.USER, self._user_id)
        async with open_scope(self._services, self._tenant_id, actor, user_id=self._user_id) as scope:
            run = present(await find_run(scope, run_id))
            message = await views.find_message(scope, self._sent.session_id, self._sent.run.reply_id)
        if message is None:
            return None
        answered = Answered(run=run, message=_show_message(message))
        return JSONResponse(answered.model_dump(mode="json"))


@router.get("/{session_id}/messages")
async def list_messages(
    scope: Annotated[Scope, scoped("messages", "list")], session_id: str, page: WantedPage
) -> Page[MessageView]:
    """List the messages of a conversation, oldest first."""
    session = await views.find_session(scope, parse_id(session_id, "session"))
    after = page.after_one(int)
    rows = await views.list_messages(scope, session.session_id, after or 0, page.limit + 1)
    return page.page(rows, _show_message, lambda message: (message.ordinal,))


# Files


def _workspace(scope: Scope, session_id: UUID) -> Workspace:
    return Workspace.of_session(scope.service(Settings), scope.tenant_id, session_id)


async def _pieces(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


def _stored(workspace: Workspace) -> list[Entry]:
    return [entry for entry in workspace.entries(recursive=True) if not entry.folder]


@router.post("/{session_id}/files", status_code=201, responses=problems(409))
async def upload(
    scope: Annotated[Scope, scoped("files", "create")],
    session_id: str,
    file: Annotated[UploadFile, File(description="the file")],
    path: Annotated[str | None, Form(max_length=1024, description="where it goes; by default its own name")] = None,
) -> FileView:
    """Put a file into the session's workspace, where its agents find it."""
    session = parse_id(session_id, "session")
    target = path or file.filename
    if not target:
        raise BadInput("Say where the file goes.", field="path")
    # The session first: a stranger's id must not get a folder.
    await commands.own_session(scope, session)
    limit = scope.service(Settings).upload_limit
    stored = await save_upload(_workspace(scope, session), target, _pieces(file), limit=limit)
    await commands.note_upload(scope, session, stored)
    return FileView(path=stored.path, size=stored.size, sha256=stored.sha256)


@router.get("/{session_id}/files")
async def list_files(scope: Annotated[Scope, scoped("files", "list")], session_id: str) -> Files:
    """List the files of a session's workspace, those its agents wrote too."""
    session = await views.find_session(scope, parse_id(session_id, "session"))
    found = await asyncio.to_thread(_stored, _workspace(scope, session.session_id))
    return Files(
        items=[
            FileView(path=one.path, size=one.size, changed_at=datetime.fromtimestamp(one.changed_at, UTC))
            for one in found
        ]
    )


@router.get(
    "/{session_id}/files/{path:path}",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The file"}},
)
async def download(scope: Annotated[Scope, scoped("files", "read")], session_id: str, path: str) -> StreamingResponse:
    """Read a file of the session's workspace."""
    session = await views.find_session(scope, parse_id(session_id, "session"))
    source = _workspace(scope, session.session_id).open(path)

    def pieces() -> Iterator[bytes]:
        with source:
            while piece := source.read(_PIECE):
                yield piece

    # Never shown as a page of this server: a stored HTML file must not run with its reader's rights. That browsers
    # do not guess the type is a header of every answer.
    return StreamingResponse(pieces(), media_type="application/octet-stream")
