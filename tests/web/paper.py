"""A house made of paper for the web's own tests: a gate that knows its people by heart, and a small room of notes.

Everything else is real: PostgreSQL, the ledger, the feed, uvicorn on a socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
from fastapi import Depends, File, Request, UploadFile
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from retinue.database import Database
from retinue.kernel import (
    Actor,
    ActorKind,
    Clock,
    Conflict,
    NotFound,
    Room,
    Scope,
    Services,
    Settings,
    SystemClock,
    Unauthenticated,
    UnitOfWork,
    parse_id,
)
from retinue.ledger import Event, Feed, Projections, append, event
from retinue.live import Live, MemoryLive
from retinue.web import (
    Asked,
    Credential,
    Deferred,
    Entry,
    IfMatch,
    Page,
    Permission,
    Router,
    Server,
    Streamed,
    WantedPage,
    check_match,
    create_app,
    limit_login,
    problems,
    public,
    refused,
    scoped,
    services_of,
    set_etag,
)

# People


@dataclass
class Person:
    """Somebody with a token; a test changes what the gate knows of them."""

    user_id: UUID = field(default_factory=uuid4)
    tenant_id: UUID = field(default_factory=uuid4)
    role: str = "admin"
    scopes: frozenset[str] | None = None
    expires_at: datetime | None = None
    is_key: bool = False
    known: bool = True

    @property
    def token(self) -> str:
        return f"paper-{self.user_id}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


class PaperGate:
    """Lets in whom it knows; viewers may only look."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.standing_asked = 0

    def add(self, **what: Any) -> Person:
        person = Person(**what)
        self.people[person.token] = person
        return person

    async def identify(self, asked: Asked) -> Credential | None:
        token = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        if not token.startswith("paper-"):
            raise Unauthenticated("This is no token of ours.")
        person = self.people.get(token)
        if person is None or person.is_key:
            return Credential("key", f"key:{token}", claims={"token": token})
        return Credential(
            "token", f"login:{token}", person.user_id, person.tenant_id, person.expires_at, {"token": token}
        )

    async def home(self, credential: Credential) -> UUID:
        return self._person(credential).tenant_id

    async def use_up(self, credential: Credential, tenant_id: UUID) -> None:
        raise AssertionError("nobody signs here")

    async def enter(self, credential: Credential, tenant_id: UUID, uow: UnitOfWork) -> Entry:
        person = self._person(credential)
        if person.tenant_id != tenant_id:
            raise NotFound("tenant")
        return Entry(Actor(ActorKind.USER, person.user_id), person.user_id, person.role, person.scopes)

    async def standing(self, holders: Sequence[tuple[Credential, UUID]]) -> Sequence[Entry | None]:
        self.standing_asked += 1
        found = [self.people.get(credential.claims["token"]) for credential, _ in holders]
        return [
            Entry(Actor(ActorKind.USER, one.user_id), one.user_id, one.role, one.scopes) if one and one.known else None
            for one in found
        ]

    async def audiences(self, entry: Entry, uow: UnitOfWork) -> frozenset[str]:
        return frozenset()

    def permits(self, role: str, scopes: frozenset[str] | None, resource: str, action: str) -> Permission:
        if scopes is not None and f"{resource}:{action}" not in scopes:
            return "deny"
        if action in ("read", "list") or role == "admin":
            return "allow"
        return "ask" if role == "member" else "deny"

    def _person(self, credential: Credential) -> Person:
        person = self.people.get(credential.claims["token"])
        if person is None or not person.known:
            raise Unauthenticated("This login has ended.")
        return person


# The room of notes


@event("note.written")
class NoteWritten(Event, frozen=True, kw_only=True):
    note_id: UUID
    text: str = ""


@event("note.hidden")
class NoteHidden(Event, frozen=True, kw_only=True):
    note_id: UUID


@event("note.torn")
class NoteTorn(Event, frozen=True, kw_only=True):
    note_id: UUID


def _broken(data: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("this payload cannot be made")


class Limits(BaseModel):
    """Numbers."""

    tokens: int | None = Field(default=None, ge=1, le=10, strict=True)


class NewNote(BaseModel):
    """A note to be written."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "Buy milk"}]})
    text: str = Field(min_length=1, max_length=200_000)
    copies: int = Field(default=1, ge=1, le=1000, strict=True)
    limits: Limits = Field(default_factory=Limits)


class Note(BaseModel):
    """A note."""

    note_id: UUID
    text: str
    bodies: int = 0


router = Router(prefix="/v1/my/notes", tags=["notes"])


async def write_note(scope: Scope, text: str, copies: int = 1, **meta: Any) -> UUID:
    note_id = uuid4()
    facts = [NoteWritten(note_id=note_id, text=text) for _ in range(copies)]
    await append(scope, f"note:{note_id}", 0, facts, **meta)
    return note_id


@router.post("", status_code=201)
async def create(scope: Annotated[Scope, scoped("notes", "create")], body: NewNote) -> Note:
    """Write a note."""
    return Note(note_id=await write_note(scope, body.text, body.copies), text=body.text)


@router.post("/slowly", status_code=201)
async def create_slowly(scope: Annotated[Scope, scoped("notes", "create")], body: NewNote, request: Request) -> Note:
    """Write a note, and let the test decide when it is done."""
    note_id = await write_note(scope, body.text)
    gate: SlowGate = request.app.state.slow
    gate.entered += 1
    gate.arrived.set()
    await gate.go_on.wait()
    return Note(note_id=note_id, text=body.text)


@router.post("/failing", responses=problems(409))
async def fail(scope: Annotated[Scope, scoped("notes", "create")], body: NewNote, refuse: bool = False) -> Note:
    """Write a note, and then fail: nothing of it may stay."""
    await write_note(scope, body.text)
    if refuse:
        raise Conflict("Not today.")
    raise RuntimeError(f"a secret of the program: {body.text}")


@router.post("/refused", responses=problems(409))
async def refuse(scope: Annotated[Scope, scoped("notes", "create")], body: NewNote, request: Request) -> Response:
    """Record, and refuse all the same."""
    await write_note(scope, body.text)
    return refused(request, Conflict("Recorded, and refused."))


@router.post("/waited", status_code=202, response_model=Note, responses={200: {"model": Note}})
async def waited(scope: Annotated[Scope, scoped("notes", "create")], body: NewNote) -> Response:
    """Write a note and answer only when it can be read back from outside of the transaction."""
    note_id = await write_note(scope, body.text)
    feed, tenant_id = scope.service(Feed), scope.tenant_id

    async def finish() -> Response:
        events = await feed.read(tenant_id, 0)
        note = Note(note_id=note_id, text=body.text, bodies=len(events))
        return Response(note.model_dump_json(), media_type="application/json")

    return Deferred(Note(note_id=note_id, text=body.text), finish)


@router.post("/upload", status_code=201)
async def upload(scope: Annotated[Scope, scoped("notes", "create")], file: Annotated[UploadFile, File()]) -> Note:
    """Keep a file's beginning."""
    data = await file.read()
    note_id = await write_note(scope, data[:20].hex())
    return Note(note_id=note_id, text=f"{len(data)} bytes")


@router.post("/raw", status_code=201)
async def raw(scope: Annotated[Scope, scoped("notes", "create")], request: Request) -> Note:
    """Take any body."""
    return Note(note_id=uuid4(), text=(await request.body()).decode())


@router.get("")
async def find(scope: Annotated[Scope, scoped("notes", "list")], page: WantedPage) -> Page[Note]:
    """List notes, oldest first."""
    after = page.after(int)
    events = await scope.service(Feed).read(scope.tenant_id, after[0] if after else 0, page.limit + 1)
    return page.page(events, lambda one: Note(note_id=uuid4(), text=str(one.position)), lambda one: (one.position,))


@router.get("/{note_id}", responses=problems(404))
async def show(
    scope: Annotated[Scope, scoped("notes", "read")], note_id: Annotated[str, PathParameter()], response: Response
) -> Note:
    """Show a note; there is only one in this room."""
    if parse_id(note_id, "note") != UUID(int=7):
        raise NotFound("note")
    set_etag(response, 3)
    return Note(note_id=UUID(int=7), text="seven")


@router.put("/{note_id}", responses=problems(412))
async def change(
    scope: Annotated[Scope, scoped("notes", "change")], note_id: str, body: NewNote, if_match: IfMatch
) -> Note:
    """Change the note, which is at version 3."""
    check_match(if_match, 3, lambda: {"text": "seven"})
    return Note(note_id=parse_id(note_id, "note"), text=body.text)


@router.delete("/{note_id}", status_code=204)
async def forget(scope: Annotated[Scope, scoped("secrets", "delete")], note_id: str) -> None:
    """Forget a note."""


open_router = Router(prefix="/v1/auth", tags=["doors"])


class SignIn(BaseModel):
    """Who signs in."""

    name: str = Field(max_length=100)


@open_router.post("/login", dependencies=[public()])
async def login(body: SignIn, request: Request, services: Annotated[Services, Depends(services_of)]) -> SignIn:
    """Sign in."""
    await limit_login(request, body.name)
    return body


NOTES = Room(
    "notes",
    events=[NoteWritten, NoteHidden, NoteTorn],
    routers=[router, open_router],
    streamed={
        "note.written": Streamed("message_created", resource="notes"),
        "note.torn": Streamed("system_notice", _broken),
    },
)


class SlowGate:
    """Holds requests of ``/slowly`` until the test lets them go on."""

    def __init__(self) -> None:
        self.entered = 0
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()


# The house


@dataclass
class House:
    """A served application and its parts."""

    url: str
    server: Server
    services: Services
    gate: PaperGate
    live: MemoryLive
    slow: SlowGate
    database: Database

    def client(self, person: Person | None = None, **more: Any) -> httpx.AsyncClient:
        headers = person.headers if person else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, **more)

    @asynccontextmanager
    async def scope(self, person: Person) -> AsyncIterator[Scope]:
        """Work as ``person`` without HTTP."""
        async with self.database.transaction(person.tenant_id) as uow:
            actor = Actor(ActorKind.USER, person.user_id)
            yield Scope(person.tenant_id, actor, uow, SystemClock(), self.services, person.user_id, person.role)

    async def write(self, person: Person, text: str, copies: int = 1, **meta: Any) -> UUID:
        async with self.scope(person) as scope:
            return await write_note(scope, text, copies, **meta)


def settings_for_tests(**changes: Any) -> Settings:
    return Settings(_env_file=None, host="127.0.0.1", port=0, rate_limit="off", **changes)


@asynccontextmanager
async def served(
    database: Database, settings: Settings, *, clock: Clock | None = None, live: Live | None = None
) -> AsyncIterator[House]:
    """Serve the paper house on a loopback port."""
    services = Services()
    services.add(Database, database)
    services.add(Settings, settings)
    services.add(Projections, Projections(()))
    feed = services.add(Feed, Feed(database))
    bus = live or MemoryLive()
    services.add(Live, bus)  # type: ignore[type-abstract]  # services are found by their base class
    await bus.open()
    await feed.open()
    gate = PaperGate()
    app = create_app(settings, services, [NOTES], gate, clock=clock)
    app.state.slow = SlowGate()
    server = Server(app, settings, graceful_seconds=3)
    listener = socket.create_server(("127.0.0.1", 0))
    # Not serve(): that would take over the signals of the test run.
    running = asyncio.create_task(server._serve([listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield House(url, server, services, gate, bus, app.state.slow, database)  # type: ignore[arg-type]  # by tests
    finally:
        server.should_exit = True
        app.state.slow.go_on.set()
        await running
        await feed.close()
        await bus.close()


async def eventually(condition: Any, seconds: float = 30.0) -> None:
    """Wait until ``condition()`` is true.

    Raises:
        TimeoutError: it did not become true in time.
    """
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # any condition, so nobody could set an event
            await asyncio.sleep(0.005)


def in_the(future: timedelta) -> datetime:
    return SystemClock().now() + future
