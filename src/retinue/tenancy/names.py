"""What members are called, for those who may know it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from retinue.identity import Person, people
from retinue.kernel import Scope
from retinue.tenancy import views
from retinue.tenancy.views import Member


async def member_names(scope: Scope, user_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the names of users as the list of members shows them to the scope's user.

    Left out is who was added by id, is no member any more, or has no name.
    """
    found = await views.members_of(scope, user_ids)
    known = await people(scope.queries, [one.user_id for one in found])
    named = {one.user_id: person.name for one in found if (person := known_to(scope, one, known)) is not None}
    return {user_id: name for user_id, name in named.items() if name}


def known_to(scope: Scope, member: Member, known: dict[UUID, Person]) -> Person | None:
    """Return a member's address and name, if the scope's user may know them. Oneself, one always sees."""
    return known.get(member.user_id) if member.shown or member.user_id == scope.owner() else None
