"""What people do with work items: create, change, merge, undo, delete, comment, link; and the policy for agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from retinue.board import rules, views, working
from retinue.board.checks import Checks
from retinue.board.events import (
    BoardPolicy,
    FieldChange,
    ItemChanged,
    ItemCommented,
    ItemCreated,
    ItemDeleted,
    ItemEvent,
    ItemLinked,
    ItemProposalDecided,
    ItemRestored,
    ItemUnlinked,
    ItemWithdrawn,
    LinkKind,
    PolicyChanged,
)
from retinue.board.rules import DEFAULTS, DELETED, Item, agent_of, as_uuid
from retinue.board.views import Comment, Link
from retinue.board.working import record, stream_of
from retinue.kernel import ActorKind, BadInput, Conflict, Forbidden, NotFound, PreconditionFailed, Scope, new_id
from retinue.ledger import append, read_stream
from retinue.web import etag


def by(scope: Scope) -> UUID | None:
    """Return the user whose own change it is; None for an agent's and the system's."""
    return scope.user_id if scope.actor.kind in (ActorKind.USER, ActorKind.API_KEY) else None


# Create and change


async def create(scope: Scope, wanted: Mapping[str, Any]) -> UUID:
    """Put an item on the board and return its id; one for an agent starts a run.

    Raises:
        BadInput: a field cannot be as wanted.
        Conflict, TooManyRequests, BudgetExhausted: the agent it is for cannot begin.
    """
    return await create_one(scope, Checks(scope), wanted, later=False)


async def create_one(scope: Scope, checks: Checks, wanted: Mapping[str, Any], *, later: bool) -> UUID:
    """Do :func:`create`; with ``later`` a run starts after the commit."""
    fields = {**DEFAULTS, **_with_state(rules.normalised(wanted), None)}
    if not fields["title"]:
        raise BadInput("title: there must be one.", field="title")
    item_id = new_id()
    await checks.check(item_id, fields, set(wanted), by(scope))
    team = as_uuid(fields["team"])
    facts: list[ItemEvent] = [ItemCreated(item_id=item_id, team=team, by=by(scope), fields=fields)]
    if agent_of(fields["assignee"]) is not None:
        if later:
            await working.look_later(scope, item_id)
        else:
            facts += await working.start(scope, item_id, fields)
    await record(scope, item_id, 0, facts)
    return item_id


def _with_state(wanted: dict[str, Any], current: Mapping[str, Any] | None) -> dict[str, Any]:
    """Let an item that goes to an agent be in progress, unless its state is given, too."""
    assignee = wanted.get("assignee")
    if agent_of(assignee) is None or "state" in wanted or (current and current["assignee"] == assignee):
        return wanted
    return {**wanted, "state": "in_progress"}


async def change(scope: Scope, item_id: UUID, wanted: Mapping[str, Any], base: int | None) -> bool:
    """Change fields of an item; return whether the change was merged with others'.

    Args:
        base: the version the change was made at; None: whatever there is now.

    Raises:
        NotFound: there is no such item.
        BadInput: a field cannot be as wanted.
        PreconditionFailed: others have changed the same fields since; both sides are in the document.
    """
    item = await views.locked(scope, item_id)
    _, merged = await change_one(scope, Checks(scope), item, wanted, base, later=False)
    return merged


async def change_one(
    scope: Scope, checks: Checks, item: Item, wanted: Mapping[str, Any], base: int | None, *, later: bool
) -> tuple[Item, bool]:
    """Do :func:`change` with a locked item; with ``later`` runs start and end after the commit."""
    values, merged = rules.normalised(wanted), False
    if base is not None and base != item.version:
        values = await _merged(scope, item, values, base)
        merged = True
    diff = rules.changes(item.fields, _with_state(values, item.fields))
    if not diff:
        return item, merged
    return await write(scope, checks, item, diff, later=later), merged


async def _merged(scope: Scope, item: Item, wanted: Mapping[str, Any], base: int) -> dict[str, Any]:
    if not 0 < base < item.version:
        raise PreconditionFailed(
            f"It is at version {item.version}; there is no version {base} yet.",
            extra={"current": shown(item)},
            headers={"ETag": etag(item.version)},
        )
    later = await read_stream(scope, stream_of(item.item_id), base)
    before = rules.fields_before(item.fields, later)
    merge = rules.merge(before, item.fields, wanted)
    if not merge.clashes:
        return merge.wanted
    theirs = {name: {"from": c.before, "to": c.after} for name, c in rules.changes(before, item.fields).items()}
    yours = {name: {"from": c.before, "to": c.after} for name, c in rules.changes(before, wanted).items()}
    raise PreconditionFailed(
        f"{', '.join(merge.clashes)} was changed since version {base}. Look at both and send what is to hold.",
        extra={
            "current": shown(item),
            "base": {"version": base, **before},
            "yours": yours,
            "theirs": theirs,
            "clashes": list(merge.clashes),
        },
        headers={"ETag": etag(item.version)},
    )


def shown(item: Item) -> dict[str, Any]:
    """Return an item's version and fields, for the document of a refusal."""
    return {"item_id": str(item.item_id), "version": item.version, **item.fields}


async def write(
    scope: Scope,
    checks: Checks,
    item: Item,
    diff: Mapping[str, FieldChange],
    *,
    later: bool = False,
    undoes: int | None = None,
    redoes: int | None = None,
) -> Item:
    """Record a change of a locked item and what follows from it; return the item as it is then."""
    fields = {**item.fields, **{name: one.after for name, one in diff.items()}}
    by_now = by(scope) if "assignee" in diff else item.assigned_by
    await checks.check(item.item_id, fields, set(diff), by_now)
    team = as_uuid(fields["team"])
    facts: list[ItemEvent] = []
    if "team" in diff and team is not None:
        # Before the change: who sees both takes the item up again with what follows.
        facts.append(ItemWithdrawn(item_id=item.item_id, team=item.team))
    changed = ItemChanged(
        item_id=item.item_id, team=team, by=by(scope), changes=dict(diff), undoes=undoes, redoes=redoes
    )
    facts.append(changed)
    run_due = False
    if "assignee" in diff:
        run_due = agent_of(fields["assignee"]) is not None
        if later and (run_due or item.run_status == working.OPEN):
            await working.look_later(scope, item.item_id)
        elif not later:
            facts += await working.stop(scope, item, team)
            facts += await working.start(scope, item.item_id, fields) if run_due else []
    version = await record(scope, item.item_id, item.version, facts)
    return replace(item, version=version, fields=fields, assigned_by=by_now, run_due=run_due and later)


# Delete and restore


async def delete(scope: Scope, item_id: UUID, base: int | None) -> None:
    """Take an item off the board; its run is cancelled.

    Raises:
        NotFound: there is no such item.
        Forbidden: it is somebody else's, and the caller is a member.
        PreconditionFailed: it is not at version ``base``.
    """
    await delete_one(scope, await views.locked(scope, item_id), base, later=False)


async def delete_one(scope: Scope, item: Item, base: int | None, *, later: bool) -> Item:
    """Do :func:`delete` with a locked item."""
    if not rules.may_delete(item, scope.owner(), scope.role):
        raise Forbidden("A member deletes items of their own; a manager deletes any.")
    if base is not None and base != item.version:
        raise PreconditionFailed(
            f"It is at version {item.version} now, not {base}. Look at it and try again.",
            extra={"current": shown(item)},
            headers={"ETag": etag(item.version)},
        )
    return await _remove(scope, item, later=later)


async def _remove(
    scope: Scope, item: Item, *, later: bool = False, undoes: int | None = None, redoes: int | None = None
) -> Item:
    gone = ItemDeleted(item_id=item.item_id, team=item.team, by=by(scope), undoes=undoes, redoes=redoes)
    facts: list[ItemEvent] = [gone]
    if later and item.run_status == working.OPEN:
        await working.look_later(scope, item.item_id)
    elif not later:
        facts += await working.stop(scope, item, item.team)
    version = await record(scope, item.item_id, item.version, facts)
    return replace(item, version=version, deleted_at=scope.clock.now())


async def restore(scope: Scope, item_id: UUID) -> None:
    """Put a deleted item back. One that is there stays as it is.

    Raises:
        NotFound: there is no such item.
        Forbidden: as :func:`delete`.
        BadInput: its team or its parent is gone.
    """
    item = await views.locked(scope, item_id, deleted=True)
    if not rules.may_delete(item, scope.owner(), scope.role):
        raise Forbidden("A member restores items of their own; a manager restores any.")
    if item.deleted_at is not None:
        await _put_back(scope, item)


async def _put_back(scope: Scope, item: Item, *, undoes: int | None = None, redoes: int | None = None) -> None:
    await Checks(scope).check(item.item_id, {**item.fields, "assignee": None}, {"team", "parent"}, None)
    fact = ItemRestored(item_id=item.item_id, team=item.team, by=by(scope), undoes=undoes, redoes=redoes)
    await record(scope, item.item_id, item.version, [fact])


# Undo and redo


@dataclass(frozen=True, slots=True)
class Undone:
    """What undo or redo did; ``item`` is None when that deleted it."""

    item: Item | None
    version: int
    fields: list[str]


async def undo(scope: Scope, item_id: UUID) -> Undone:
    """Take back the last change of the scope's user that holds.

    Raises:
        NotFound: there is no such item.
        Conflict: there is nothing to undo, or somebody changed the same fields since.
    """
    item, history, current = await _with_history(scope, item_id)
    reversal = rules.undo(history, scope.owner(), current)
    return await _reverse(scope, item, reversal, undoes=reversal.version)


async def redo(scope: Scope, item_id: UUID) -> Undone:
    """Do again what the scope's user has undone last.

    Raises:
        NotFound, Conflict: as :func:`undo`.
    """
    item, history, current = await _with_history(scope, item_id)
    reversal = rules.redo(history, scope.owner(), current)
    return await _reverse(scope, item, reversal, redoes=reversal.version)


async def _with_history(scope: Scope, item_id: UUID) -> tuple[Item, list[Any], dict[str, Any]]:
    item = await views.locked(scope, item_id, deleted=True)
    history = await read_stream(scope, stream_of(item_id))
    return item, history, {**item.fields, DELETED: item.deleted_at is not None}


async def _reverse(
    scope: Scope, item: Item, reversal: rules.Reversal, *, undoes: int | None = None, redoes: int | None = None
) -> Undone:
    names = sorted(reversal.changes)
    if DELETED in reversal.changes:
        if reversal.changes[DELETED].after:
            await delete_permitted(scope, item)
            await _remove(scope, item, undoes=undoes, redoes=redoes)
            return Undone(None, reversal.version, names)
        await _put_back(scope, item, undoes=undoes, redoes=redoes)
    else:
        if item.deleted_at is not None:
            raise Conflict("The item was deleted. Restore it first.")
        await write(scope, Checks(scope), item, reversal.changes, undoes=undoes, redoes=redoes)
    return Undone(await views.find(scope, item.item_id), reversal.version, names)


async def delete_permitted(scope: Scope, item: Item) -> None:
    """Refuse to delete for somebody who may not. Raises Forbidden."""
    if not rules.may_delete(item, scope.owner(), scope.role):
        raise Forbidden("A member deletes items of their own; a manager deletes any.")


# Comments and links


async def comment(scope: Scope, item_id: UUID, text: str, *, comment_id: UUID | None = None) -> Comment:
    """Say something about an item. A ``comment_id`` that is there already stays as it is.

    Raises:
        NotFound: there is no such item.
        BadInput: the text cannot be stored.
    """
    checked = rules.plain_text("text", text, rules.LONGEST_TEXT, shortest=1)
    item, wanted = await views.locked(scope, item_id), comment_id or new_id()
    if (found := await views.comment(scope, item_id, wanted)) is None:
        fact = ItemCommented(item_id=item_id, team=item.team, by=by(scope), comment_id=wanted, text=checked)
        await record(scope, item_id, item.version, [fact])
        found = await views.comment(scope, item_id, wanted)
    assert found is not None  # written just now
    return found


async def link(scope: Scope, item_id: UUID, kind: LinkKind, target: str, title: str) -> Link:
    """Let an item point to something: a run, a plan or an artifact by its id, anything by its URL.

    Raises:
        NotFound: there is no such item.
        BadInput: it has too many links.
    """
    item = await views.locked(scope, item_id)
    found = await views.links(scope, item_id)
    if len(found) >= rules.MOST_LINKS:
        raise BadInput(f"An item has at most {rules.MOST_LINKS} links.", field="target")
    made = Link(new_id(), kind, target, title)
    fact = ItemLinked(
        item_id=item_id, team=item.team, by=by(scope), link_id=made.link_id, kind=kind, target=target, title=title
    )
    await record(scope, item_id, item.version, [fact])
    return made


async def unlink(scope: Scope, item_id: UUID, link_id: UUID) -> None:
    """Take a link away.

    Raises:
        NotFound: there is no such item or link.
    """
    item = await views.locked(scope, item_id)
    if all(one.link_id != link_id for one in await views.links(scope, item_id)):
        raise NotFound("link")
    await record(
        scope, item_id, item.version, [ItemUnlinked(item_id=item_id, team=item.team, by=by(scope), link_id=link_id)]
    )


# Proposals and policy


async def decide_proposal(scope: Scope, item_id: UUID, accept: bool, version: int | None) -> None:
    """Accept what an agent proposes, which is then the scope's user's own change, or do not.

    Args:
        version: the proposal that was looked at; None: whichever there is.

    Raises:
        NotFound: there is no such item, or nothing is proposed.
        Conflict: another proposal has taken its place.
        BadInput: it cannot be done any more.
    """
    item = await views.locked(scope, item_id)
    proposal = item.proposal
    if proposal is None:
        raise NotFound("proposal")
    if version is not None and version != proposal.version:
        raise Conflict("The agent proposes something else by now. Look at it again.")
    fact = ItemProposalDecided(item_id=item_id, team=item.team, by=by(scope), accepted=accept)
    item = replace(item, version=await record(scope, item_id, item.version, [fact]))
    if accept:
        diff = rules.changes(item.fields, rules.normalised(proposal.changes))
        if diff:
            await write(scope, Checks(scope), item, diff)


async def change_policy(scope: Scope, wanted: BoardPolicy, base: int | None) -> int:
    """Let another policy hold from now on; return its version.

    Raises:
        PreconditionFailed: the policy is not at version ``base``.
    """
    present, version = await views.policy(scope)
    if base is not None and base != version:
        raise PreconditionFailed(
            f"The policy is at version {version} now, not {base}.",
            extra={"current": {"agents_change": present.agents_change, "agents_close": present.agents_close}},
            headers={"ETag": etag(version)},
        )
    if present == wanted:
        return version
    fact = PolicyChanged(policy=wanted)
    return await append(replace(scope, user_id=None), f"board-policy:{scope.tenant_id}", version, [fact])


async def refuse_team_in_use(scope: Scope, team_id: UUID) -> None:
    """Keep a team from being deleted while items belong to it. Raises Conflict."""
    if count := await views.count_of_team(scope, team_id):
        raise Conflict(f"{count} work items belong to this team. Give them to another one first.")
