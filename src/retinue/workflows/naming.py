"""Which names an expression of a workflow may use, and where in it expressions are. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from retinue.kernel import BadInput
from retinue.planning import compile_expression, expressions_in

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """An expression and where it stands; ``event``: it is asked of an event."""

    path: Path
    text: str
    event: bool = False

    def steps(self) -> Collection[str]:
        """Return the steps it names; none where it is wrong."""
        try:
            return compile_expression(self.text).outline.steps or ()
        except BadInput:
            return ()


def need_not_have_ended(step: str) -> str:
    """Say that a step is named where it may still go on."""
    return f"The step {step!r} need not have ended here: put it before, or into `needs`."


def uses_of(value: Any, path: Path) -> Iterator[Use]:
    """Yield every ``${ CEL }`` in the texts of a value.

    Raises:
        BadInput: one has no end.
    """
    if isinstance(value, str):
        yield from (Use(path, text) for _, text in expressions_in(value))
    elif isinstance(value, dict):
        for name, inside in value.items():
            yield from uses_of(inside, (*path, name))
    elif isinstance(value, list):
        for index, inside in enumerate(value):
            yield from uses_of(inside, (*path, index))


# What a plan itself records: a workflow that such events set off could set itself off for ever.
_OWN = ("plan.", "task.", "run.", "tool.", "model.", "approval.", "workflow.", "callback.", "session.", "message.")


def may_set_off(event_type: str) -> bool:
    """Whether events of a type may set off a workflow: not what runs, plans and conversations record."""
    return not event_type.startswith(_OWN)


@dataclass(frozen=True, slots=True)
class Names:
    """What expressions of one level may name.

    Attributes:
        inputs: the declared inputs; None: there may be others.
        trigger: whether what set the workflow off is known here.
        item: whether this is the body of a ``for_each``.
    """

    inputs: frozenset[str] | None
    trigger: bool = False
    item: bool = False

    def mistakes(self, use: Use, steps: Collection[str], earlier: Collection[str] | None) -> Iterator[tuple[Path, str]]:
        """Yield what is wrong with an expression.

        Args:
            steps: the ids of this level.
            earlier: those that have ended for certain when it is evaluated; None: all.
        """
        try:
            outline = compile_expression(use.text).outline
        except BadInput as fault:
            yield use.path, fault.detail
            return
        for name in sorted(outline.names):
            if (name == "event") != use.event and name == "event":
                yield use.path, "`event` is known only where an event is looked at."
            if name in ("item", "index") and not self.item:
                yield use.path, f"`{name}` is known only in the steps of a for_each."
            if name == "trigger" and not self.trigger:
                yield use.path, "`trigger` is not known in a workflow that another one calls; pass it as an input."
        for one in outline.references:
            if one.path[0] != "inputs" or len(one.path) < 2 or self.inputs is None:
                continue
            if one.path[1] not in self.inputs:
                yield use.path, f"There is no input {one.path[1]!r}; `inputs` of the workflow declares them."
        for step in sorted(outline.steps or ()):
            if step not in steps:
                yield use.path, f"There is no step {step!r} at this level."
            elif earlier is not None and step not in earlier:
                yield use.path, need_not_have_ended(step)
