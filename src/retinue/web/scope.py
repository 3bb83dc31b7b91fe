"""One request, one scope, one transaction.

``Annotated[Scope, scoped("agents", "create")]`` as a parameter of a route opens the scope before the route's function
runs and commits after it returned and before the response starts: a caller that reads "done" can rely on it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.responses import Response

from retinue.database import Database
from retinue.kernel import Forbidden, NotFound, Scope, Services, UnitOfWork
from retinue.web.exchange import Exchange, exchange_of
from retinue.web.gate import Credential, Entry, Gate
from retinue.web.idempotency import Idempotency
from retinue.web.limits import Limits
from retinue.web.routing import Cell


def scoped(resource: str, action: str) -> Any:
    """Return the dependency that opens a scope for a caller who may do ``action`` on ``resource``.

    The route then answers 401 to nobody, 404 for a tenant the caller is no member of, and 403 where the permission
    table denies. Events, views and wake-ups of the scope commit together.
    """
    cell = Cell(resource, action)

    async def open_scope(connection: HTTPConnection) -> AsyncGenerator[Scope, None]:
        passage = await _passage(connection, cell)
        async with passage.answering() as scope:
            yield scope

    open_scope.retinue_cell = cell  # type: ignore[attr-defined]  # read by routing.cell_of
    return Depends(open_scope, scope="function")


def passing(resource: str, action: str) -> Any:
    """Return the dependency for a route whose body or work lasts longer than a transaction may: a :class:`Passage`.

    The caller is let in before the route runs, or refused as by :func:`scoped`, and the transaction is over then. Every
    further one asks again: who is thrown out in the middle of an upload does not finish it.
    """
    cell = Cell(resource, action)

    async def open_passage(connection: HTTPConnection) -> AsyncGenerator[Passage, None]:
        passage = await _passage(connection, cell)
        async with passage.scope():
            pass
        yield passage

    open_passage.retinue_cell = cell  # type: ignore[attr-defined]  # read by routing.cell_of
    return Depends(open_passage, scope="function")


@dataclass(frozen=True, slots=True)
class Passage:
    """A caller at a cell of the permission table, who gets a transaction for a moment, as often as needed."""

    services: Services
    tenant_id: UUID
    _connection: HTTPConnection
    _exchange: Exchange
    _credential: Credential
    _gate: Gate
    _cell: Cell

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[Scope]:
        """Open a transaction as the caller; it commits at the end of the block.

        Raises:
            Unauthenticated, NotFound, Forbidden: the caller may not, or not any more.
        """
        async with self.services.get(Database).transaction(self.tenant_id) as uow:
            yield await self._enter(uow)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[Scope]:
        """As :meth:`scope`; what it does is done once for an ``Idempotency-Key``, and the answer kept.

        The answer is the route's, or what was handed to :meth:`answer` within the block.

        Raises:
            Replayed: it was done before.
        """
        async with (
            self.services.get(Idempotency).turn(self._connection, self._exchange, self.tenant_id) as repeatable,
            self.services.get(Database).transaction(self.tenant_id) as uow,
        ):
            scope = await self._enter(uow)
            if repeatable is not None:
                await repeatable.begin(scope)
            yield scope
            if repeatable is not None:
                await repeatable.keep(scope, self._exchange.answer)

    def answer(self, response: Response) -> Response:
        """Say what the answer will be, so that it is kept with what it tells of."""
        self._exchange.answer = response
        return response

    async def _enter(self, uow: UnitOfWork) -> Scope:
        exchange = self._exchange
        entry = await self._gate.enter(self._credential, self.tenant_id, uow)
        _check(self._gate, entry.role, entry.scopes, self._cell)
        self.services.get(Limits).remember(self._credential, entry.user_id)
        exchange.user = str(entry.user_id)
        return Scope(
            tenant_id=self.tenant_id,
            actor=entry.actor,
            uow=uow,
            clock=self._connection.app.state.clock,
            services=self.services,
            user_id=entry.user_id,
            role=entry.role,
            trace_id=exchange.trace_id,
            cause=f"request:{exchange.span_id}",
            scopes=entry.scopes,
            grant_id=entry.grant_id,
        )


async def _passage(connection: HTTPConnection, cell: Cell) -> Passage:
    exchange = exchange_of(connection.scope)
    credential = exchange.caller()
    gate: Gate = connection.app.state.gate
    tenant_id = await _tenant(connection, credential, gate)
    await _use_up(exchange, credential, tenant_id, gate)
    return Passage(connection.app.state.services, tenant_id, connection, exchange, credential, gate, cell)


async def admitted(connection: HTTPConnection, resource: str, action: str) -> tuple[UUID, Entry]:
    """Let the caller of a WebSocket in, and let go of the transaction at once: the connection may last for hours.

    Raises:
        Unauthenticated, NotFound, Forbidden: as :func:`scoped`.
    """
    exchange = exchange_of(connection.scope)
    credential = exchange.caller()
    gate: Gate = connection.app.state.gate
    services: Services = connection.app.state.services
    tenant_id = await _tenant(connection, credential, gate)
    await _use_up(exchange, credential, tenant_id, gate)
    async with services.get(Database).transaction(tenant_id) as uow:
        entry = await gate.enter(credential, tenant_id, uow)
        entry = replace(entry, audiences=await gate.audiences(entry, uow))
    _check(gate, entry.role, entry.scopes, Cell(resource, action))
    services.get(Limits).remember(credential, entry.user_id)
    exchange.user = str(entry.user_id)
    return tenant_id, entry


def public() -> Any:
    """Return the dependency that says: anybody may call this route, signed in or not."""

    async def nobody_is_asked() -> None:
        return None

    nobody_is_asked.retinue_cell = None  # type: ignore[attr-defined]  # read by routing.cell_of
    return Depends(nobody_is_asked)


async def services_of(connection: HTTPConnection) -> Services:
    """Give a public route the server's services: ``Annotated[Services, Depends(services_of)]``."""
    found: Services = connection.app.state.services
    return found


async def exchange_here(connection: HTTPConnection) -> Exchange:
    """Give a route its exchange (trace id, client address): ``Annotated[Exchange, Depends(exchange_here)]``."""
    return exchange_of(connection.scope)


async def _tenant(connection: HTTPConnection, credential: Credential, gate: Gate) -> UUID:
    """Find the tenant a request is about: in its path (`/v1/tenants/{tenant_id}/...`), its header, its credential."""
    named = connection.path_params.get("tenant_id") or connection.headers.get("retinue-tenant")
    if credential.kind == "signature":
        home = await gate.home(credential)
        if named is not None and named != str(home):
            raise NotFound("tenant")
        return home
    if named is not None:
        try:
            return UUID(named)
        except ValueError:
            raise NotFound("tenant") from None
    return credential.tenant_id or await gate.home(credential)


async def _use_up(exchange: Exchange, credential: Credential, tenant_id: UUID, gate: Gate) -> None:
    if credential.kind == "signature" and not exchange.used_up:
        await gate.use_up(credential, tenant_id)
        exchange.used_up = True


def _check(gate: Gate, role: str, scopes: frozenset[str] | None, cell: Cell) -> None:
    permission = gate.permits(role, scopes, cell.resource, cell.action)
    if permission == "allow":
        return
    if permission == "ask":
        raise Forbidden(f"To {cell.action} {cell.resource} needs somebody's approval first.")
    limit = " and the scopes of this key" if scopes is not None and role != "grantee" else ""
    raise Forbidden(f"The role {role}{limit} may not {cell.action} {cell.resource} here.")
