"""What the keys of a report are called: users and agents by name, where the reader may know it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from retinue.kernel import Scope
from retinue.metering.commands import AgentDirectory
from retinue.metering.reports import By
from retinue.tenancy import member_names

NAMED: tuple[By, ...] = ("user", "agent")
"""What is named by an id; applications and days are called what their key is."""


async def names_of(scope: Scope, by: By, keys: Sequence[str]) -> dict[str, str]:
    """Return the names of keys; left out is what has none that the scope's user may know."""
    if by not in NAMED:
        return {}
    ids = [UUID(key) for key in keys if key]
    found = await (member_names(scope, ids) if by == "user" else scope.service(AgentDirectory).names(scope, ids))
    return {str(one): name for one, name in found.items()}
