"""Labels: what a tool may cause and how far what it returns can be trusted."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Effect(StrEnum):
    """What a call can do to the world outside the run, from the least to the most."""

    READ = "read"
    """Looks at what the user already has here; changes nothing."""

    FETCH = "fetch"
    """Gets something from elsewhere; the request itself can carry data out."""

    WRITE = "write"
    """Changes something of the user's, here."""

    EGRESS = "egress"
    """Sends something out, or changes something elsewhere."""


class Trust(StrEnum):
    """Who could have written what a tool returns."""

    TRUSTED = "trusted"
    """This server or the user in person."""

    UNTRUSTED = "untrusted"
    """Anybody: a file, a page, another program. A run that has read it is tainted."""


class Labels(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a tool says about itself. The defaults are the cautious ones: no label means egress, untrusted.

    Attributes:
        effect: what a call can do.
        output: who could have written the result.
        private: whether the result can hold the user's private data.
        idempotent: calling again with the same idempotency key does nothing more than calling once.
        waits: the call is a question to a person; the run waits for the answer and ``run`` is never called.
        assumed: nobody labelled this tool; these are the defaults and no autonomy is high enough to skip the question.
    """

    effect: Effect = Effect.EGRESS
    output: Trust = Trust.UNTRUSTED
    private: bool = True
    idempotent: bool = False
    waits: bool = False
    assumed: bool = False

    @property
    def changes_something(self) -> bool:
        """Whether it matters if a call happened once, twice or not at all."""
        return self.effect in (Effect.WRITE, Effect.EGRESS)

    @property
    def repeatable(self) -> bool:
        """Whether a call of which nobody knows if it happened may simply be made again."""
        return self.idempotent or not self.changes_something


UNLABELLED = Labels(assumed=True)
"""The labels of a tool that has none."""
