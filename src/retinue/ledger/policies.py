"""What a tenant decides for all its things of a kind: one value with a version, and the row that holds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from retinue.kernel import PreconditionFailed, Row, Scope
from retinue.ledger.append import append
from retinue.ledger.event import Event, Recorded
from retinue.ledger.projection import StreamProjection

P = TypeVar("P", bound=msgspec.Struct)


class Policies(Generic[P]):
    """The policies of one kind, one of each tenant.

    Args:
        kind: of the stream, one of each tenant.
        table: the view, with ``tenant_id`` as its key, ``version`` and ``policy``.
        default: what holds in a tenant where nobody has changed it.
        changed: returns the event that another policy holds from now on; it has that as ``policy``.

    Attributes:
        projection: keeps the view.
    """

    def __init__(self, kind: str, table: str, default: P, changed: Callable[[P], Event]) -> None:
        self._kind = kind
        self._table = table
        self._default = default
        self._changed = changed
        self._decoder = msgspec.json.Decoder(type(default))
        self.projection = StreamProjection(kind, self._project)

    async def of(self, scope: Scope) -> tuple[P, int]:
        """Return the policy that holds in the scope's tenant, and its version (0: nobody has changed it)."""
        row: Row | None = await scope.queries.fetchrow(f"SELECT policy, version FROM {self._table}")
        return (self._default, 0) if row is None else (self._decoder.decode(row[0]), row[1])

    async def change(self, scope: Scope, wanted: P, expected: int) -> int:
        """Let another policy hold from now on; return its version, which stays if it is the same one.

        Raises:
            PreconditionFailed: it is not at version ``expected`` any more.
        """
        found, version = await self.of(scope)
        if version != expected:
            raise PreconditionFailed("The policy has changed meanwhile.", extra={"current_version": version})
        if found == wanted:
            return version
        return await append(scope, f"{self._kind}:{scope.tenant_id}", version, [self._changed(wanted)])

    async def _project(self, scope: Scope, batch: Sequence[Recorded[Event]]) -> None:
        newest = batch[-1]
        await scope.queries.execute(
            f"INSERT INTO {self._table} (tenant_id, version, policy) VALUES ($1, $2, $3) "
            "ON CONFLICT (tenant_id) DO UPDATE SET version = $2, policy = $3",
            scope.tenant_id,
            newest.version,
            msgspec.json.encode(cast(Any, newest.event).policy).decode(),
        )
