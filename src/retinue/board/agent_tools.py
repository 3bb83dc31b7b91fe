"""Tools of the group ``board``: what agents do with work items, within the rights of their user and of an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import msgspec

from retinue import runs
from retinue.board import commands, rules, views
from retinue.board.checks import Checks
from retinue.board.events import ItemChanged, ItemCommented, ItemEvent, ItemProposed, ItemRunEnded
from retinue.board.rules import PRIORITIES, STATES, Item
from retinue.board.views import Wanted
from retinue.board.working import HANDED_OVER, OPEN, record
from retinue.database import open_scope
from retinue.kernel import Actor, ActorKind, Fault, Scope, Services
from retinue.tenancy import AGENT, permits, role_of
from retinue.tools import Effect, Labels, Tool, ToolContext, ToolFault, Trust

GROUP = "board"

_MOST_LISTED = 50
_COMMENTS_SHOWN = 20
# What is on the board was written by many: whoever reads it has read untrusted text.
_READS = Labels(effect=Effect.READ, output=Trust.UNTRUSTED, private=True, idempotent=True)
_WRITES = Labels(effect=Effect.WRITE, output=Trust.TRUSTED, private=True, idempotent=True)

_Work = Callable[[Scope, ToolContext, dict[str, Any]], Awaitable[object]]

_ITEM: dict[str, Any] = {"type": "string", "format": "uuid", "description": "The item's id."}
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": rules.LONGEST_TEXT}
_CHANGES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": rules.LONGEST_TITLE},
        "description": {"type": "string", "maxLength": rules.LONGEST_TEXT},
        "state": {"type": "string", "enum": list(STATES)},
        "priority": {"type": "string", "enum": list(PRIORITIES)},
        "labels": {"type": "array", "items": {"type": "string"}, "maxItems": rules.MOST_LABELS},
        "due": {"type": ["string", "null"], "description": "A time with its zone, such as 2026-01-31T17:00:00Z."},
    },
    "additionalProperties": False,
    "minProperties": 1,
}


def board_tools(services: Services) -> list[Tool]:
    """Return the tools, which open scopes of their own through ``services``."""

    def tool(
        name: str, description: str, labels: Labels, action: str, work: _Work, required: list[str], **properties: Any
    ) -> Tool:
        return Tool(
            name=name,
            description=description,
            parameters={
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            },
            labels=labels,
            handler=partial(_carried_out, services, action, work),
        )

    return [
        tool(
            "board_list",
            "List work items of the board, the newest first.",
            _READS,
            "list",
            _list,
            [],
            state={"type": "string", "enum": list(STATES)},
            label={"type": "string", "maxLength": rules.LONGEST_LABEL},
            text={"type": "string", "maxLength": 500, "description": "Words to look for."},
            mine={"type": "boolean", "description": "Only those assigned to you."},
        ),
        tool("board_show", "Show a work item with its comments.", _READS, "read", _show, ["item"], item=_ITEM),
        tool(
            "board_comment",
            "Say something about a work item, such as how far you are.",
            _WRITES,
            "change",
            _comment,
            ["item", "text"],
            item=_ITEM,
            text=_TEXT,
        ),
        tool(
            "board_propose",
            "Propose changes of a work item. A person decides, unless the board's policy lets agents change it.",
            _WRITES,
            "change",
            _propose,
            ["item", "changes", "reason"],
            item=_ITEM,
            changes=_CHANGES,
            reason={**_TEXT, "maxLength": 2000},
        ),
        tool(
            "board_ask_help",
            "Hand a work item over to a person because you cannot go on: it becomes blocked, with your question.",
            _WRITES,
            "change",
            _ask_help,
            ["item", "question"],
            item=_ITEM,
            question=_TEXT,
            person={"type": "string", "format": "uuid", "description": "A user's id; left out: who assigned it."},
        ),
    ]


async def _carried_out(
    services: Services, action: str, work: _Work, context: ToolContext, arguments: dict[str, Any]
) -> object:
    try:
        async with _acting(services, action, context) as scope:
            return await work(scope, context, arguments)
    except Fault as fault:
        if fault.status >= 500:
            raise
        raise ToolFault(fault.detail) from None


@asynccontextmanager
async def _acting(services: Services, action: str, context: ToolContext) -> AsyncIterator[Scope]:
    """Open a scope of the run's agent. Both the agent and its user must have the right."""
    async with open_scope(
        services, context.tenant_id, user_id=context.user_id, cause=f"call:{context.idempotency_key}"[:100]
    ) as scope:
        role = None if context.user_id is None else await role_of(scope, context.user_id)
        if role is None or "deny" in (permits(role, None, "items", action), permits(AGENT, None, "items", action)):
            raise ToolFault(f"You may not {action} items of this board.")
        run = await runs.find_run(scope, context.run_id)
        scope.actor, scope.role = Actor(ActorKind.AGENT, run.agent_id), role
        yield scope


async def _list(scope: Scope, _context: ToolContext, arguments: dict[str, Any]) -> object:
    label = arguments.get("label")
    wanted = Wanted(
        states=[arguments["state"]] if "state" in arguments else (),
        labels=[rules.plain_text("label", label, rules.LONGEST_LABEL)] if label else (),
        text=rules.plain_text("text", arguments["text"], 500) if arguments.get("text") else None,
        assignee=f"agent:{scope.actor.id}" if arguments.get("mine") else None,
    )
    found = await views.listed(scope, wanted, None, _MOST_LISTED)
    return _json([{"item": str(one.item_id), **{n: one.fields[n] for n in _BRIEF}} for one in found])


_BRIEF = ("title", "state", "priority", "labels", "due", "assignee")


async def _show(scope: Scope, _context: ToolContext, arguments: dict[str, Any]) -> object:
    item = await views.find(scope, _id(arguments["item"]))
    said = await views.comments(scope, item.item_id, None, _COMMENTS_SHOWN)
    comments = [{"author": one.author, "text": one.text} for one in reversed(said)]
    links = [{"kind": one.kind, "target": one.target} for one in await views.links(scope, item.item_id)]
    return _json({"item": str(item.item_id), **item.fields, "comments": comments, "links": links})


async def _comment(scope: Scope, context: ToolContext, arguments: dict[str, Any]) -> object:
    await commands.comment(scope, _id(arguments["item"]), arguments["text"], comment_id=_mark(context))
    return "Said."


async def _propose(scope: Scope, context: ToolContext, arguments: dict[str, Any]) -> object:
    item = await views.locked(scope, _id(arguments["item"]))
    if await views.comment(scope, item.item_id, _mark(context)) is not None:
        return "This was done already."
    wanted = rules.normalised(arguments["changes"])
    diff = rules.changes(item.fields, wanted)
    if not diff:
        return "The item is so already."
    policy, _ = await views.policy(scope)
    direct = rules.goes_directly(policy, wanted)
    facts: list[ItemEvent] = [_said(item, context, arguments["reason"])]
    if direct:
        await Checks(scope).check(item.item_id, {**item.fields, **wanted}, set(diff), None)
        facts.append(ItemChanged(item_id=item.item_id, team=item.team, changes=diff))
    else:
        assert scope.actor.id is not None  # an agent acts
        facts.append(
            ItemProposed(
                item_id=item.item_id,
                team=item.team,
                changes={name: one.after for name, one in diff.items()},
                reason=arguments["reason"],
                agent_id=scope.actor.id,
                run_id=context.run_id,
            )
        )
    await record(scope, item.item_id, item.version, facts)
    return "Changed." if direct else "Proposed. A person decides; do not wait for it."


async def _ask_help(scope: Scope, context: ToolContext, arguments: dict[str, Any]) -> object:
    item = await views.locked(scope, _id(arguments["item"]))
    if await views.comment(scope, item.item_id, _mark(context)) is not None:
        return "This was done already."
    if item.agent != scope.actor.id:
        raise ToolFault("This item is not assigned to you, so it is not yours to hand over.")
    person = _id(arguments["person"]) if "person" in arguments else item.assigned_by
    wanted = {"assignee": f"user:{person}" if person else None, "state": "blocked"}
    fields = {**item.fields, **rules.normalised(wanted)}
    diff = rules.changes(item.fields, rules.normalised(wanted))
    await Checks(scope).check(item.item_id, fields, set(diff), None)
    facts: list[ItemEvent] = [_said(item, context, arguments["question"])]
    facts.append(ItemChanged(item_id=item.item_id, team=item.team, changes=diff))
    if item.run_status == OPEN:
        facts.append(ItemRunEnded(item_id=item.item_id, team=item.team, status=HANDED_OVER))
    await record(scope, item.item_id, item.version, facts)
    return "Handed over. Finish with a short summary of what you know."


def _said(item: Item, context: ToolContext, text: str) -> ItemCommented:
    """The words that go with an act. Their id is made of the call's key, so a repeated call is known by them."""
    checked = rules.plain_text("text", text, rules.LONGEST_TEXT, shortest=1)
    return ItemCommented(item_id=item.item_id, team=item.team, comment_id=_mark(context), text=checked)


def _mark(context: ToolContext) -> UUID:
    return uuid5(context.run_id, context.idempotency_key)


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ToolFault("An id looks like 01920000-0000-7000-8000-000000000001.") from None


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
