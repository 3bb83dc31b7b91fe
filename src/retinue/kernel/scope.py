"""Scope: who acts, in which tenant, inside which transaction. One scope is one transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

from retinue.kernel.clock import Clock

T = TypeVar("T")


class ActorKind(StrEnum):
    """What kind of somebody acted."""

    USER = "user"
    AGENT = "agent"
    API_KEY = "api_key"
    GRANTEE = "grantee"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Whoever acts: a kind and an id, written ``user:0190…`` in events and logs."""

    kind: ActorKind
    id: UUID | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.id else str(self.kind)


SYSTEM = Actor(ActorKind.SYSTEM)


class Row(Protocol):
    """One row of a result, read by column name or by index; a slice is a tuple."""

    def __getitem__(self, key: str | int | slice, /) -> Any: ...


class Queries(Protocol):
    """The part of a database connection that rooms use. Arguments are always bound, never formatted in."""

    async def fetch(self, query: str, *args: object) -> Sequence[Row]: ...

    async def fetchrow(self, query: str, *args: object) -> Row | None: ...

    async def fetchval(self, query: str, *args: object) -> Any: ...

    async def execute(self, query: str, *args: object) -> str: ...

    async def executemany(self, query: str, args: Sequence[Sequence[object]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Alone:
    """One statement that is a unit of work by itself: it sets the tenant, writes, and returns one value.

    Several may share a transaction; each is refused or kept for itself all the same.

    Attributes:
        tenant_id: whose rows it writes.
        query: its last parameter, after ``arguments``, is true when it must not wait long for a lock because others
            would wait with it.
        arguments: bound to the other parameters.
        committed: called with the value, once the commit is durable.
    """

    tenant_id: UUID
    query: str
    arguments: Sequence[object]
    committed: Callable[[Any], None]


class UnitOfWork(Protocol):
    """One transaction of one tenant. It commits as a whole when its block ends, or not at all."""

    @property
    def queries(self) -> Queries:
        """The transaction's connection; row-level security shows it only the tenant's rows."""
        ...

    def attach(self, kind: type[T], make: Callable[[], T]) -> T:
        """Return this transaction's one object of ``kind``, made on first use (the ledger's pending batch)."""
        ...

    def before_commit(
        self, step: Callable[[], Awaitable[None]], *, alone: Callable[[], Alone | None] | None = None
    ) -> None:
        """Run ``step`` last inside the transaction; if it raises, everything rolls back.

        Where there was nothing else to do, neither statement nor step, what ``alone`` returns takes its place.
        """
        ...

    def after_commit(self, step: Callable[[], None]) -> None:
        """Run ``step`` once the commit is durable; it must not raise and must not wait."""
        ...


class Services:
    """The server's long-lived objects (database, feed, dispatcher, ...), found by their class.

    Filled once by the composition root, ``house.py``; read through :meth:`Scope.service`.
    """

    def __init__(self) -> None:
        self._by_kind: dict[type[Any], object] = {}

    def add(self, kind: type[T], service: T) -> T:
        """Register ``service`` as the one of ``kind`` and return it."""
        self._by_kind[kind] = service
        return service

    def get(self, kind: type[T]) -> T:
        """Return the service of ``kind``.

        Raises:
            LookupError: the composition root did not add one; a mistake in the program, not of a caller.
        """
        try:
            return cast(T, self._by_kind[kind])
        except KeyError:
            raise LookupError(f"no service {kind.__qualname__}") from None


@dataclass(slots=True)
class Scope:
    """Who, where and in which transaction.

    Attributes:
        tenant_id: the tenant whose rows can be seen and written.
        actor: who acts; recorded with every event.
        user_id: the user whose rights apply (an agent acts within those of its user); None for the system.
        role: the actor's role in the tenant; None for the system.
        uow: the transaction.
        clock: the time.
        services: the server's long-lived objects.
        trace_id: W3C trace id (32 hex digits), for events, logs and problem documents.
        cause: the id of the event, command or request that led here.
        scopes: what an API key was limited to; None means no further limit.
        grant_id: the grant under which an application acts for the user; it sees what belongs to that grant and
            nothing else. None: nobody acts by a grant.
    """

    tenant_id: UUID
    actor: Actor
    uow: UnitOfWork
    clock: Clock
    services: Services
    user_id: UUID | None = None
    role: str | None = None
    trace_id: str = ""
    cause: str = ""
    scopes: frozenset[str] | None = None
    grant_id: UUID | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def queries(self) -> Queries:
        """The transaction's connection."""
        return self.uow.queries

    def service(self, kind: type[T]) -> T:
        """Return one of the server's long-lived objects."""
        return self.services.get(kind)

    def sees(self, owner_id: UUID, grant_id: UUID | None) -> bool:
        """Whether the scope may see a thing of this user, made under this grant or none.

        An application sees what belongs to its grant, a user what is the user's own, an admin all of the tenant's, and
        so does the system.
        """
        if self.grant_id is not None:
            return grant_id == self.grant_id
        return self.user_id is None or self.role == "admin" or owner_id == self.user_id

    def owner(self) -> UUID:
        """Return the user whose things ``/v1/my`` shows.

        Raises:
            LookupError: the system acts; a mistake in the program.
        """
        if self.user_id is None:
            raise LookupError("the system owns nothing")
        return self.user_id
