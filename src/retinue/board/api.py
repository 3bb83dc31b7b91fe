"""The board over HTTP."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Query, Response
from fastapi.responses import StreamingResponse

from retinue.board import commands, rules, views
from retinue.board.bulk import Operation, bulk
from retinue.board.events import BoardPolicy
from retinue.board.export import board_csv
from retinue.board.rules import Priority, State
from retinue.board.shapes import (
    Bulk,
    BulkResults,
    CommentView,
    Decision,
    HistoryEntry,
    ItemChange,
    ItemDetails,
    ItemView,
    LinkView,
    Moment,
    NewComment,
    NewItem,
    NewLink,
    Policy,
    UndoneView,
    comment_of,
    details_of,
    entry_of,
    link_of,
    policy_of,
    results_of,
    view_of,
)
from retinue.board.views import Wanted
from retinue.board.working import stream_of
from retinue.kernel import Scope
from retinue.ledger import read_stream
from retinue.web import CSV, IfMatch, Page, Router, WantedPage, csv_response, problems, scoped, set_etag

router = Router(prefix="/v1/board", tags=["board"])

ItemId = Annotated[UUID, Path(description="the item")]
_STARTS = problems(402, 409)
"""What can keep an agent from beginning."""


class _Given:
    """What a list is asked for, as it was sent."""

    def __init__(
        self,
        state: Annotated[list[State] | None, Query(max_length=6, description="may be repeated")] = None,
        assignee: Annotated[str | None, Query(max_length=100, description="`me`, `user:ID` or `agent:ID`")] = None,
        team: Annotated[str | None, Query(max_length=40, description="an id, or `none`")] = None,
        label: Annotated[
            list[str] | None, Query(max_length=rules.MOST_LABELS, description="may be repeated: all of them")
        ] = None,
        priority: Annotated[Priority | None, Query()] = None,
        due_before: Annotated[Moment | None, Query()] = None,
        parent: Annotated[UUID | None, Query(description="the parts of this item")] = None,
        text: Annotated[str | None, Query(max_length=500, description='words, `"phrases"`, `or`, `-without`')] = None,
        deleted: Annotated[bool, Query(description="deleted ones instead")] = False,
    ) -> None:
        self.state, self.assignee, self.team, self.label = state, assignee, team, label
        self.priority, self.due_before, self.parent, self.text, self.deleted = (
            priority,
            due_before,
            parent,
            text,
            deleted,
        )

    def wanted(self, scope: Scope) -> Wanted:
        """Return the conditions. Raises BadInput."""
        assignee = self.assignee
        if assignee == "me":
            assignee = f"user:{scope.owner()}"
        elif assignee is not None:
            assignee = rules.normalised({"assignee": assignee})["assignee"]
        team = None if self.team in (None, "none") else rules.normalised({"team": self.team})["team"]
        for name, texts in (("text", [self.text or ""]), ("label", self.label or [])):
            for one in texts:
                rules.plain_text(name, one, 500)
        return Wanted(
            states=self.state or (),
            assignee=assignee,
            team=rules.as_uuid(team),
            no_team=self.team == "none",
            labels=self.label or (),
            priority=self.priority,
            due_before=self.due_before,
            parent=self.parent,
            text=self.text,
            deleted=self.deleted,
        )


Given = Annotated[_Given, Depends(_Given)]


@router.post("/items", status_code=201, responses=_STARTS)
async def create(scope: Annotated[Scope, scoped("items", "create")], response: Response, body: NewItem) -> ItemDetails:
    """Put an item on the board. One for an agent begins at once, in your name."""
    return await _shown(scope, await commands.create(scope, body.given()), response)


@router.get("/items")
async def list_items(
    scope: Annotated[Scope, scoped("items", "list")], given: Given, page: WantedPage
) -> Page[ItemView]:
    """List items, the newest first: those of everybody and those of your teams; managers see those of all teams."""
    after = page.after_one(UUID)
    found = await views.listed(scope, given.wanted(scope), after, page.limit + 1)
    return page.page(found, view_of, lambda item: (item.item_id,))


@router.get("/export", response_class=StreamingResponse, responses=CSV)
async def export(scope: Annotated[Scope, scoped("items", "export")], given: Given) -> StreamingResponse:
    """The items of a list as CSV. Cells that a spreadsheet would take for formulas get an apostrophe before them."""
    return csv_response(board_csv(scope, given.wanted(scope)), "board.csv")


@router.post("/items/bulk", responses=problems(409, 412))
async def change_many(scope: Annotated[Scope, scoped("items", "change")], body: Bulk) -> BulkResults:
    """Create, change and delete up to 1,000 items in one transaction. Agents begin after it."""
    operations = [
        Operation(one.op, one.item_id, one.fields.given() if one.fields else {}, one.version) for one in body.operations
    ]
    return results_of(await bulk(scope, operations, all_or_nothing=body.mode == "all"))


@router.get("/items/{item_id}")
async def show(scope: Annotated[Scope, scoped("items", "read")], item_id: ItemId, response: Response) -> ItemDetails:
    """One item."""
    return await _shown(scope, item_id, response)


@router.patch("/items/{item_id}", responses=problems(402, 409, 412))
async def change(
    scope: Annotated[Scope, scoped("items", "change")],
    item_id: ItemId,
    if_match: IfMatch,
    response: Response,
    body: ItemChange,
) -> ItemDetails:
    """Change fields. With `If-Match`, what others changed since is kept; 412 where both changed the same field.

    Giving it to an agent starts a run in your name; taking it away cancels the run.
    """
    merged = await commands.change(scope, item_id, body.given(), if_match)
    return await _shown(scope, item_id, response, merged=merged)


@router.delete("/items/{item_id}", status_code=204, responses=problems(412))
async def delete(scope: Annotated[Scope, scoped("items", "delete")], item_id: ItemId, if_match: IfMatch) -> None:
    """Delete an item: members their own, managers any. It can be restored."""
    await commands.delete(scope, item_id, if_match)


@router.post("/items/{item_id}/restore")
async def restore(
    scope: Annotated[Scope, scoped("items", "delete")], item_id: ItemId, response: Response
) -> ItemDetails:
    """Put a deleted item back."""
    await commands.restore(scope, item_id)
    return await _shown(scope, item_id, response)


@router.post("/items/{item_id}/undo", responses=_STARTS)
async def undo(scope: Annotated[Scope, scoped("items", "change")], item_id: ItemId) -> UndoneView:
    """Take back your own last change of an item. 409 when somebody has changed the same fields since."""
    return _undone(await commands.undo(scope, item_id))


@router.post("/items/{item_id}/redo", responses=_STARTS)
async def redo(scope: Annotated[Scope, scoped("items", "change")], item_id: ItemId) -> UndoneView:
    """Do again what you have undone last."""
    return _undone(await commands.redo(scope, item_id))


@router.get("/items/{item_id}/history")
async def history(
    scope: Annotated[Scope, scoped("items", "read")], item_id: ItemId, page: WantedPage
) -> Page[HistoryEntry]:
    """What happened to an item, the oldest first."""
    await views.find(scope, item_id)
    start = page.after_one(int) or 0
    found = await read_stream(scope, stream_of(item_id), start, min(start + page.limit + 1, 2**31 - 1))
    return page.page(found, entry_of, lambda one: (one.version,))


@router.get("/items/{item_id}/comments")
async def list_comments(
    scope: Annotated[Scope, scoped("items", "read")], item_id: ItemId, page: WantedPage
) -> Page[CommentView]:
    """The comments on an item, the newest first."""
    await views.find(scope, item_id)
    before = page.after_one(int)
    found = await views.comments(scope, item_id, before, page.limit + 1)
    return page.page(found, comment_of, lambda one: (one.version,))


@router.post("/items/{item_id}/comments", status_code=201)
async def comment(scope: Annotated[Scope, scoped("items", "change")], item_id: ItemId, body: NewComment) -> CommentView:
    """Say something about an item."""
    return comment_of(await commands.comment(scope, item_id, body.text))


@router.post("/items/{item_id}/links", status_code=201)
async def link(scope: Annotated[Scope, scoped("items", "change")], item_id: ItemId, body: NewLink) -> LinkView:
    """Let an item point to a run, a plan, an artifact or a URL."""
    return link_of(await commands.link(scope, item_id, body.kind, body.target, body.title))


@router.delete("/items/{item_id}/links/{link_id}", status_code=204)
async def unlink(
    scope: Annotated[Scope, scoped("items", "change")],
    item_id: ItemId,
    link_id: Annotated[UUID, Path(description="the link")],
) -> None:
    """Take a link away."""
    await commands.unlink(scope, item_id, link_id)


@router.post("/items/{item_id}/proposal", responses=_STARTS)
async def decide(
    scope: Annotated[Scope, scoped("items", "change")], item_id: ItemId, response: Response, body: Decision
) -> ItemDetails:
    """Accept what an agent proposes, or do not."""
    await commands.decide_proposal(scope, item_id, body.accept, body.version)
    return await _shown(scope, item_id, response)


@router.get("/policy")
async def read_policy(scope: Annotated[Scope, scoped("items", "read")], response: Response) -> Policy:
    """What agents may do on this tenant's board without a person's word."""
    policy, version = await views.policy(scope)
    set_etag(response, version)
    return policy_of(policy)


@router.put("/policy", responses=problems(412))
async def change_policy(
    scope: Annotated[Scope, scoped("items", "decide")], if_match: IfMatch, response: Response, body: Policy
) -> Policy:
    """Say what agents may do on this tenant's board without a person's word."""
    wanted = BoardPolicy(agents_change=body.agents_change, agents_close=body.agents_close)
    set_etag(response, await commands.change_policy(scope, wanted, if_match))
    return policy_of(wanted)


def _undone(found: commands.Undone) -> UndoneView:
    return UndoneView.model_construct(
        version=found.version, fields=found.fields, item=view_of(found.item) if found.item else None
    )


async def _shown(scope: Scope, item_id: UUID, response: Response, *, merged: bool = False) -> ItemDetails:
    item, links = await views.details(scope, item_id)
    set_etag(response, item.version)
    return details_of(item, links, merged=merged)
