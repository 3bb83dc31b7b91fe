"""Facts about work items. Each carries the team that may see it: the item's team at that moment, None for everybody."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from retinue.ledger import Event, event

LinkKind = Literal["run", "plan", "artifact", "url"]


class FieldChange(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """What became of one field, as JSON values."""

    before: Any
    after: Any


class ItemEvent(Event, frozen=True, kw_only=True):
    """Base of the facts about an item.

    Attributes:
        team: whose members alone see the fact; None: everybody in the tenant who may see items.
        by: the user in whose right it happened, also through an API key; None for agents and the system.
    """

    item_id: UUID
    team: UUID | None = None
    by: UUID | None = None


@event("item.created", personal=("fields",))
class ItemCreated(ItemEvent, frozen=True, kw_only=True):
    """An item is on the board."""

    fields: dict[str, Any]


@event("item.changed", personal=("changes",))
class ItemChanged(ItemEvent, frozen=True, kw_only=True):
    """Fields have other values. ``undoes``, ``redoes``: the version of the change that is taken back or done again."""

    changes: dict[str, FieldChange]
    undoes: int | None = None
    redoes: int | None = None


@event("item.withdrawn")
class ItemWithdrawn(ItemEvent, frozen=True, kw_only=True):
    """An item went to another team: those who see this fact do not see the item any more."""


@event("item.commented", personal=("text",))
class ItemCommented(ItemEvent, frozen=True, kw_only=True):
    """Somebody said something about an item."""

    comment_id: UUID
    text: str


@event("item.linked", personal=("target", "title"))
class ItemLinked(ItemEvent, frozen=True, kw_only=True):
    """An item points to something else."""

    link_id: UUID
    kind: LinkKind
    target: str
    title: str = ""


@event("item.unlinked")
class ItemUnlinked(ItemEvent, frozen=True, kw_only=True):
    """A link was taken away."""

    link_id: UUID


@event("item.deleted")
class ItemDeleted(ItemEvent, frozen=True, kw_only=True):
    """An item is gone from the board; it can be restored."""

    redoes: int | None = None
    undoes: int | None = None


@event("item.restored")
class ItemRestored(ItemEvent, frozen=True, kw_only=True):
    """A deleted item is back."""

    redoes: int | None = None
    undoes: int | None = None


@event("item.proposed", personal=("changes", "reason"))
class ItemProposed(ItemEvent, frozen=True, kw_only=True):
    """An agent would change an item, and a person is to decide. It takes the place of an older proposal."""

    changes: dict[str, Any]
    reason: str
    agent_id: UUID
    run_id: UUID | None = None


@event("item.proposal_decided")
class ItemProposalDecided(ItemEvent, frozen=True, kw_only=True):
    """A person accepted a proposal, whose changes follow, or did not."""

    accepted: bool


@event("item.run_started")
class ItemRunStarted(ItemEvent, frozen=True, kw_only=True):
    """The agent an item was assigned to has begun."""

    run_id: UUID
    agent_id: UUID


@event("item.run_ended")
class ItemRunEnded(ItemEvent, frozen=True, kw_only=True):
    """The agent's run no longer works on the item.

    ``status`` is how the run ended; ``cancelled`` as soon as nobody wants it any more, ``handed_over`` when the agent
    asked a person for help, ``refused`` when it could not begin.
    """

    status: str


class BoardPolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What agents may do on the board of a tenant without a person's word.

    Attributes:
        agents_change: change items directly; otherwise they propose.
        agents_close: set the state ``done`` or ``cancelled``, and end with ``done`` what was assigned to them.
    """

    agents_change: bool = False
    agents_close: bool = False


@event("board.policy_changed")
class PolicyChanged(Event, frozen=True, kw_only=True):
    """Somebody who may changed what agents may do on the board."""

    policy: BoardPolicy


ITEM_EVENTS = (
    ItemCreated,
    ItemChanged,
    ItemWithdrawn,
    ItemCommented,
    ItemLinked,
    ItemUnlinked,
    ItemDeleted,
    ItemRestored,
    ItemProposed,
    ItemProposalDecided,
    ItemRunStarted,
    ItemRunEnded,
)
