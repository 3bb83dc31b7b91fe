"""What `retinue doctor` finds, and what its checks are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from retinue.kernel import Settings

State = Literal["ok", "note", "repaired", "cannot"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``note``: works, but something is worth knowing; ``repaired``; ``cannot``: a person must act.
        text: what was found.
        advice: what to do, when there is something.
    """

    name: str
    state: State
    text: str
    advice: str = ""


@dataclass(slots=True)
class Patient:
    """A server's settings, and how far the doctor may go.

    Attributes:
        fix: whether to repair what can be repaired.
        ask_models: whether to really ask a model, which may cost money.
        owner_dsn: as the owner of the schema, who may list the tenants; None when it is not known.
    """

    settings: Settings
    fix: bool = False
    ask_models: bool = False
    owner_dsn: str | None = None
