"""The board as the API shows and takes it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from retinue.board import rules
from retinue.board.bulk import MOST, Kind, Result
from retinue.board.events import BoardPolicy, FieldChange, ItemChanged, LinkKind
from retinue.board.rules import Item, Priority, State
from retinue.board.views import Comment, Link
from retinue.kernel import BadInput
from retinue.ledger import Event, Recorded, UnknownEvent

_ID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
Title = Annotated[str, Field(min_length=1, max_length=rules.LONGEST_TITLE, examples=["Fix the login page"])]
Text = Annotated[str, Field(max_length=rules.LONGEST_TEXT, examples=["It shows no error for a wrong password."])]
Labels = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=rules.LONGEST_LABEL)]],
    Field(max_length=rules.MOST_LABELS, examples=[["web", "bug"]]),
]
Assignee = Annotated[
    str,
    Field(
        pattern=f"^(user|agent):{_ID}$",
        examples=["user:01920000-0000-7000-8000-000000000001"],
        description="`user:ID` or `agent:ID`; an agent begins to work on it, in your name",
    ),
]


def _written(value: object) -> object:
    """Refuse a number where a time is wanted: it would be taken for the seconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and not value.strip().lstrip("+-").isdecimal()):
        return value
    raise ValueError("a time with its zone, such as 2026-01-31T17:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]


class ItemChange(BaseModel):
    """Fields of an item; those that are left out stay as they are. Null empties `due`, `team`, `assignee`, `parent`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"state": "review", "labels": ["web"]}]})

    title: Title | None = None
    description: Text | None = None
    state: State | None = None
    priority: Priority | None = None
    labels: Labels | None = None
    due: Moment | None = None
    team: UUID | None = Field(default=None, description="whose members alone see it")
    assignee: Assignee | None = None
    parent: UUID | None = Field(default=None, description="the item it is a part of")

    def given(self) -> dict[str, Any]:
        """Return the fields that were sent. Raises BadInput for a null where there must be a value."""
        found = {name: getattr(self, name) for name in rules.FIELDS if name in self.model_fields_set}
        for name, value in found.items():
            if value is None and rules.DEFAULTS[name] is not None:
                raise BadInput(f"{name}: cannot be null.", field=name)
        return found


class NewItem(ItemChange):
    """An item to put on the board; the title is all it needs."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"title": "Fix the login page", "priority": "high"}]}
    )

    title: Title


class ProposalView(BaseModel):
    """What an agent would change."""

    version: int = Field(description="names the proposal", examples=[4])
    changes: dict[str, Any] = Field(examples=[{"state": "done"}])
    reason: str
    agent_id: UUID
    run_id: UUID | None


class ItemView(BaseModel):
    """A work item."""

    item_id: UUID
    version: int = Field(examples=[1])
    title: str = Field(examples=["Fix the login page"])
    description: str
    state: State
    priority: Priority
    labels: list[str]
    due: datetime | None
    team: UUID | None
    assignee: str | None = Field(examples=["user:01920000-0000-7000-8000-000000000001"])
    parent: UUID | None
    comments: int = Field(description="how many")
    proposal: ProposalView | None = Field(description="what an agent would change; a person decides")
    run_id: UUID | None = Field(description="the newest run that worked on it")
    run_status: str | None = Field(
        description="`open` while it works, then how it ended; `handed_over` when the agent asked for help",
        examples=["open"],
    )
    created_by: str = Field(examples=["user:01920000-0000-7000-8000-000000000001"])
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None
    merged: bool = Field(default=False, description="your change was brought together with others' since your version")


class LinkView(BaseModel):
    """What an item points to."""

    link_id: UUID
    kind: LinkKind
    target: str
    title: str


class ItemDetails(ItemView):
    """A work item with its links."""

    links: list[LinkView]


class NewLink(BaseModel):
    """Something an item is to point to: a run, a plan or an artifact by its id, anything else by its URL."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"kind": "url", "target": "https://example.com/spec"}]}
    )

    kind: LinkKind
    target: str = Field(min_length=1, max_length=2000)
    title: str = Field(default="", max_length=rules.LONGEST_TITLE)

    @model_validator(mode="after")
    def _fits(self) -> NewLink:
        if self.kind == "url":
            # Shown as a link: nothing that a browser would run.
            if not self.target.startswith(("https://", "http://")) or any(ord(one) <= 32 for one in self.target):
                raise ValueError("a URL begins with https:// or http://, and has no spaces")
        elif self.kind != "artifact":
            UUID(self.target)
        return self


class NewComment(BaseModel):
    """Something to say."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "I have a question."}]})

    text: str = Field(min_length=1, max_length=rules.LONGEST_TEXT)


class CommentView(BaseModel):
    """What somebody said about an item."""

    comment_id: UUID
    author: str = Field(examples=["agent:01920000-0000-7000-8000-000000000001"])
    text: str
    created_at: datetime


class HistoryEntry(BaseModel):
    """One thing that happened to an item."""

    version: int
    type: str = Field(examples=["item.changed"])
    actor: str
    at: datetime
    data: dict[str, Any] = Field(examples=[{"changes": {"state": {"from": "open", "to": "review"}}}])


class UndoneView(BaseModel):
    """What undo or redo did."""

    version: int = Field(description="of the change that was taken back or done again")
    fields: list[str] = Field(examples=[["state"]])
    item: ItemView | None = Field(description="the item as it is now; null when it is deleted again")


class Decision(BaseModel):
    """What a person says to a proposal."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"accept": True}]})

    accept: bool
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="the proposal you looked at")


class Policy(BaseModel):
    """What agents may do on the board without a person's word."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"agents_change": True}]})

    agents_change: bool = Field(default=False, description="change items directly; otherwise they propose")
    agents_close: bool = Field(default=False, description="end with `done` what they were assigned, and close items")


class BulkOperation(BaseModel):
    """`create` with `fields`, `change` with `item_id` and `fields`, or `delete` with `item_id`."""

    model_config = ConfigDict(extra="forbid")

    op: Kind
    item_id: UUID | None = None
    version: int | None = Field(default=None, ge=1, le=2**31 - 1, description="as `If-Match`: what it is based on")
    fields: ItemChange | None = None

    @model_validator(mode="after")
    def _whole(self) -> BulkOperation:
        if (self.item_id is None) != (self.op == "create"):
            raise ValueError("change and delete name an item_id, create does not")
        if (self.fields is None) != (self.op == "delete"):
            raise ValueError("create and change have fields, delete has none")
        return self


class Bulk(BaseModel):
    """Up to a thousand operations, carried out in their order in one transaction."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"mode": "all", "operations": [{"op": "create", "fields": {"title": "One"}}]}]},
    )

    mode: Literal["all", "each"] = Field(
        default="all", description="`all`: all or nothing; `each`: those that can be done, with a result for every one"
    )
    operations: list[BulkOperation] = Field(min_length=1, max_length=MOST)


class BulkProblem(BaseModel):
    """Why an operation was not done."""

    type: str
    status: int
    detail: str


class BulkResult(BaseModel):
    """What became of one operation."""

    item_id: UUID | None
    version: int | None
    merged: bool = False
    problem: BulkProblem | None = None


class BulkResults(BaseModel):
    """The results, in the order of the operations."""

    done: int
    failed: int
    items: list[BulkResult]


def view_of(item: Item, *, merged: bool = False) -> ItemView:
    """Show an item."""
    return ItemView.model_construct(**_members(item), merged=merged)


def details_of(item: Item, links: list[Link], *, merged: bool = False) -> ItemDetails:
    """Show an item with its links."""
    return ItemDetails.model_construct(**_members(item), merged=merged, links=[link_of(one) for one in links])


def _members(item: Item) -> dict[str, Any]:
    fields = item.fields
    proposal = item.proposal
    return {
        "item_id": item.item_id,
        "version": item.version,
        **fields,
        "due": datetime.fromisoformat(fields["due"]) if fields["due"] else None,
        "team": rules.as_uuid(fields["team"]),
        "parent": rules.as_uuid(fields["parent"]),
        "comments": item.comments,
        "proposal": proposal
        and ProposalView(
            version=proposal.version,
            changes=dict(proposal.changes),
            reason=proposal.reason,
            agent_id=proposal.agent_id,
            run_id=proposal.run_id,
        ),
        "run_id": item.run_id,
        "run_status": item.run_status,
        "created_by": item.created_by,
        "created_at": item.created_at,
        "changed_at": item.changed_at,
        "deleted_at": item.deleted_at,
    }


def link_of(link: Link) -> LinkView:
    """Show a link."""
    return LinkView.model_validate(
        {"link_id": link.link_id, "kind": link.kind, "target": link.target, "title": link.title}
    )


def comment_of(comment: Comment) -> CommentView:
    """Show a comment."""
    return CommentView(
        comment_id=comment.comment_id, author=comment.author, text=comment.text, created_at=comment.created_at
    )


def entry_of(recorded: Recorded[Event]) -> HistoryEntry:
    """Show something that happened."""
    fact = recorded.event
    data: dict[str, Any] = {}
    if not isinstance(fact, UnknownEvent):
        hidden = {"item_id", "team"}
        data = {name: _plain(getattr(fact, name)) for name in fact.__struct_fields__ if name not in hidden}
        data = {name: value for name, value in data.items() if value is not None}
        if isinstance(fact, ItemChanged):
            data["changes"] = {name: {"from": one.before, "to": one.after} for name, one in fact.changes.items()}
    return HistoryEntry(
        version=recorded.version, type=recorded.type, actor=recorded.meta.actor, at=recorded.recorded_at, data=data
    )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID | FieldChange) else value


def policy_of(policy: BoardPolicy) -> Policy:
    """Show the policy."""
    return Policy(agents_change=policy.agents_change, agents_close=policy.agents_close)


def results_of(results: list[Result]) -> BulkResults:
    """Show what became of a bulk."""
    items = [
        BulkResult(
            item_id=one.item_id,
            version=one.version,
            merged=one.merged,
            problem=one.fault
            and BulkProblem(
                type=f"urn:retinue:problem:{one.fault.kind}", status=one.fault.status, detail=one.fault.detail
            ),
        )
        for one in results
    ]
    failed = sum(one.problem is not None for one in items)
    return BulkResults(done=len(items) - failed, failed=failed, items=items)
