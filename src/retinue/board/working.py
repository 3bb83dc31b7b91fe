"""Agents at work on items: starting a run, ending it, and recording what came of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from uuid import UUID

from retinue import agents, runs
from retinue.board import views
from retinue.board.events import (
    ItemChanged,
    ItemCommented,
    ItemCreated,
    ItemEvent,
    ItemLinked,
    ItemRunEnded,
    ItemRunStarted,
)
from retinue.board.rules import LONGEST_TEXT, Fields, Item, agent_of, as_uuid, changes, state_after_run
from retinue.dispatch import Dispatcher, wake
from retinue.kernel import Actor, ActorKind, Conflict, Fault, Forbidden, Scope, new_id
from retinue.ledger import append, read_stream
from retinue.runs import Assignment, EndedRun, Parent
from retinue.tenancy import refuse_when_stopped, role_of

KIND = "item"
ADVANCE = "item.advance"
OPEN, HANDED_OVER, CANCELLED, REFUSED = "open", "handed_over", "cancelled", "refused"

_COMMENTS_TOLD = 20
_TOLD = (
    "Work on this item of the board. When you are done, answer with the result: it becomes a comment on the item and a "
    "person looks at it.\n\nItem {item_id}: {title}\nPriority: {priority}. Due: {due}. Labels: {labels}.\n\n"
    "{description}"
)


def stream_of(item_id: UUID) -> str:
    """Name an item's stream."""
    return f"{KIND}:{item_id}"


async def record(scope: Scope, item_id: UUID, version: int, facts: list[ItemEvent]) -> int:
    """Append to an item. What happens to it is everybody's who may see it, not only the actor's."""
    return await append(replace(scope, user_id=None), stream_of(item_id), version, facts, session_id=item_id)


async def start(scope: Scope, item_id: UUID, fields: Fields) -> list[ItemEvent]:
    """Start a run of the agent an item is assigned to, in the name of the scope's user; return what to record.

    Raises:
        NotFound: the user has no such agent.
        Conflict: the tenant is stopped.
        TooManyRequests, BudgetExhausted: the agent takes no more work, or there is no money left.
    """
    agent_id = agent_of(fields["assignee"])
    assert agent_id is not None  # the caller has looked
    await refuse_when_stopped(scope)
    agent = await agents.find(scope, agent_id)
    tainted = await _written_by_others(scope, item_id)
    run_id = await runs.assign(
        scope,
        Assignment(
            parent=Parent(kind=KIND, id=item_id, key=str(agent_id)),
            session_id=item_id,
            agent=agent,
            prompt=await _prompt(scope, item_id, fields),
            tainted_by=("the work item: others wrote in it",) if tainted else (),
        ),
    )
    team = as_uuid(fields["team"])
    return [
        ItemRunStarted(item_id=item_id, team=team, run_id=run_id, agent_id=agent_id),
        ItemLinked(
            item_id=item_id, team=team, link_id=new_id(), kind="run", target=str(run_id), title=agent.definition.name
        ),
    ]


async def _written_by_others(scope: Scope, item_id: UUID) -> bool:
    """Tell whether somebody else than the scope's user, or any agent, wrote a text that the run is told."""
    for recorded in await read_stream(scope, stream_of(item_id)):
        fact = recorded.event
        is_text = isinstance(fact, ItemCreated | ItemCommented) or (
            isinstance(fact, ItemChanged) and bool({"title", "description", "labels"} & set(fact.changes))
        )
        if is_text and isinstance(fact, ItemEvent) and fact.by != scope.user_id:
            return True
    return False


async def _prompt(scope: Scope, item_id: UUID, fields: Fields) -> str:
    told = _TOLD.format(
        item_id=item_id,
        title=fields["title"],
        priority=fields["priority"],
        due=fields["due"] or "none",
        labels=", ".join(fields["labels"]) or "none",
        description=fields["description"] or "(no description)",
    )
    said = await views.comments(scope, item_id, None, _COMMENTS_TOLD)
    if said:
        told += "\n\nComments, the oldest first:\n"
        told += "\n".join(f"- {one.author}: {one.text}" for one in reversed(said))
    return told


async def stop(scope: Scope, item: Item, team: UUID | None) -> list[ItemEvent]:
    """End the run that works on an item, because nobody wants it any more; return what to record."""
    if item.run_status != OPEN or item.run_id is None:
        return []
    with suppress(Conflict):  # it has ended by itself; what came of it is not looked at any more
        await runs.cancel(scope, item.run_id, "the work item is not the agent's any more")
    return [ItemRunEnded(item_id=item.item_id, team=team, status=CANCELLED)]


async def on_run_ended(scope: Scope, parent: Parent, _ended: EndedRun) -> None:
    """Have the item looked at whose run has ended: the hook for parents of the kind ``item``."""
    await scope.service(Dispatcher).prompt(scope, ADVANCE, parent.id)


async def look_later(scope: Scope, item_id: UUID) -> None:
    """Have an item's run started or ended after the commit."""
    await wake(scope, ADVANCE, item_id)


async def advance(scope: Scope, item_id: UUID) -> None:
    """Compare an item with its run and record what is missing. Once more changes nothing."""
    found = await views.any_locked(scope, item_id)
    if found is None:
        return
    if found.run_id is not None and found.run_status != CANCELLED:
        found = await _take_outcome(scope, found)
    if found is not None and found.run_due and found.deleted_at is None:
        await _start_due(scope, found)


async def _take_outcome(scope: Scope, item: Item) -> Item | None:
    """Record the end of the item's run, or end it; None when something was recorded that leaves nothing to start."""
    assert item.run_id is not None
    wanted = item.deleted_at is None and item.agent == item.run_agent and not item.run_due
    if item.run_status == OPEN and not wanted:
        facts = await stop(scope, item, item.team)
        version = await record(scope, item.item_id, item.version, facts)
        return replace(item, version=version, run_status=CANCELLED)
    outcome = await runs.outcome(scope, item.run_id, lock=True)
    if outcome is None or outcome.status == item.run_status:
        return item
    acting = replace(scope, actor=Actor(ActorKind.AGENT, item.run_agent))
    completed = outcome.status is runs.Status.COMPLETED
    policy, _ = await views.policy(scope)
    state = state_after_run(policy, item, completed=completed)
    facts = [ItemRunEnded(item_id=item.item_id, team=item.team, status=str(outcome.status))]
    text = outcome.text if completed else f"The run did not succeed ({outcome.kind}): {outcome.text}"
    facts.append(_comment(item, text))
    if state is not None and state != item.fields["state"]:
        diff = changes(item.fields, {"state": state})
        facts.append(ItemChanged(item_id=item.item_id, team=item.team, changes=diff))
    version = await record(acting, item.item_id, item.version, facts)
    return replace(item, version=version) if item.run_due else None


async def _start_due(scope: Scope, item: Item) -> None:
    """Start the run that a bulk has asked for; where that cannot be, the item is blocked with the reason."""
    try:
        role = None if item.assigned_by is None else await role_of(scope, item.assigned_by)
        if role is None:
            raise Forbidden("Who assigned this is no member any more.")
        facts = await start(replace(scope, user_id=item.assigned_by, role=role), item.item_id, item.fields)
    except Fault as fault:
        if fault.status >= 500:
            raise  # the database is away: the wake-up comes again
        facts = [
            ItemRunEnded(item_id=item.item_id, team=item.team, status=REFUSED),
            _comment(item, f"The agent could not begin: {fault.detail}"),
        ]
        if item.fields["state"] != "blocked":
            diff = changes(item.fields, {"state": "blocked"})
            facts.append(ItemChanged(item_id=item.item_id, team=item.team, changes=diff))
    await record(scope, item.item_id, item.version, facts)


def _comment(item: Item, text: str) -> ItemCommented:
    bounded = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
    return ItemCommented(item_id=item.item_id, team=item.team, comment_id=new_id(), text=bounded or "(no text)")
