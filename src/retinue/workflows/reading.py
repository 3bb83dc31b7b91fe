"""From text to a workflow: every mistake names the file, the line and the path. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import ValidationError

from retinue.kernel import BadInput, Fault, PayloadTooLarge, YamlDocument, read_yaml
from retinue.workflows.document import Workflow

MAX_BYTES = 512 * 1024
MOST_MISTAKES = 100
# Each level of steps inside steps takes two or three levels of the document.
MAX_DEPTH = 64


class WorkflowMistake(msgspec.Struct, frozen=True):
    """One thing that is wrong with a workflow.

    Attributes:
        path: such as ``steps[2].when``.
        line: in the file, from 1; None where there is no file.
    """

    path: str
    message: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        """Write it the way compilers do, so that editors can jump there."""
        line = f"{self.file}:{self.line}: " if self.file else f"line {self.line}: "
        return f"{line if self.line else ''}{self.path}: {self.message}"


@dataclass(frozen=True, slots=True)
class Source:
    """A workflow as it was read, and where everything in it stands.

    Attributes:
        workflow: None when there are mistakes.
        content: the fields as they were written.
        text: the YAML; empty for what came as JSON.
    """

    workflow: Workflow | None
    content: Mapping[str, Any]
    text: str = ""
    mistakes: tuple[WorkflowMistake, ...] = ()
    file: str | None = None
    lines: YamlDocument | None = field(default=None, repr=False)

    def mistake(self, path: Sequence[str | int], message: str) -> WorkflowMistake:
        """Return a mistake with its place."""
        line = self.lines.line(path) if self.lines is not None else None
        return WorkflowMistake(written_path(path), message, self.file, line)


def read_text(raw: bytes, file: str | None = None) -> Source:
    """Read a workflow in YAML; what is wrong is in the answer's ``mistakes``.

    Raises:
        PayloadTooLarge: it is longer than :data:`MAX_BYTES`.
    """
    try:
        document = read_yaml(raw, what="a workflow", most_bytes=MAX_BYTES, most_depth=MAX_DEPTH)
    except PayloadTooLarge:
        raise
    except BadInput as fault:
        mistake = WorkflowMistake(fault.field or "body", fault.detail, file, fault.extra.get("line"))
        return Source(None, {}, mistakes=(mistake,), file=file)
    return _source(document.content, raw.decode(), file, document)


def read_content(content: Mapping[str, Any]) -> Source:
    """Read a workflow that came as JSON; what is wrong is in the answer's ``mistakes``."""
    return _source(content, "", None, None)


def refusal(mistakes: Iterable[WorkflowMistake]) -> Fault:
    """Return the refusal of a workflow; ``errors`` names every mistake with its line."""
    found = list(mistakes)[:MOST_MISTAKES]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    fault = BadInput(f"{found[0]}{more}", field=found[0].path)
    fault.extra["errors"] = [
        {"field": one.path, "message": one.message, **({"line": one.line} if one.line else {})} for one in found
    ]
    return fault


def written_path(path: Sequence[str | int]) -> str:
    """Write a path: ``steps[2].then[0].when``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "body"


def _source(content: Mapping[str, Any], text: str, file: str | None, lines: YamlDocument | None) -> Source:
    source = Source(None, content, text, (), file, lines)
    try:
        workflow = Workflow.model_validate(dict(content))
    except ValidationError as error:
        found = [
            source.mistake(_path(content, one["loc"]), _why_not(one["type"], one["loc"]) or _message(one["msg"]))
            for one in error.errors(include_input=False, include_url=False, include_context=False)[:MOST_MISTAKES]
        ]
        return Source(None, content, text, tuple(found), file, lines)
    except RecursionError:
        return Source(None, content, text, (source.mistake((), "The steps are nested too deep."),), file, lines)
    return Source(workflow, content, text, (), file, lines)


def _path(content: Any, location: Sequence[str | int]) -> tuple[str | int, ...]:
    """Return the path in the document: without the names of kinds that the validation puts in between."""
    path: list[str | int] = []
    value, kind_is_next = content, False
    for place, part in enumerate(location):
        is_last = place == len(location) - 1
        if kind_is_next and not is_last:
            kind_is_next = False
        elif isinstance(value, Mapping) and part in value:
            path.append(part)
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path.append(part)
            value = value[part]
            kind_is_next = isinstance(value, Mapping)
        elif is_last and isinstance(part, str) and isinstance(value, Mapping) and part.isidentifier():
            path.append(part)  # a field that is missing
    return tuple(path)


_OF_THE_STEPS_INSIDE = "It does nothing by itself that could fail: put this on the steps inside."
_NO_TIME = "It has no time of its own, because its steps are tasks of the same plan: give them a `timeout`."
_NOT_FOR: Mapping[tuple[str, str], str] = {
    **{
        (kind, name): _OF_THE_STEPS_INSIDE
        for kind in ("if", "switch", "parallel")
        for name in ("retry", "timeout", "on_error")
    },
    ("workflow", "timeout"): f"{_NO_TIME} `defaults.timeout` of the called workflow holds for all of its.",
    ("for_each", "timeout"): _NO_TIME,
    ("wait", "retry"): "A wait is not tried again: give it more time.",
    ("approval", "retry"): "People are not asked again by themselves: give them more time (`timeout`).",
    ("value", "retry"): "A value is not computed again: it would be the same.",
    ("value", "timeout"): "A value is computed at once.",
}


def _why_not(mistake: str, location: Sequence[str | int]) -> str | None:
    """Say why a kind of step cannot have what others can, if that is what is wrong."""
    kind, name = location[-2:] if mistake == "extra_forbidden" and len(location) > 1 else ("", "")
    return _NOT_FOR.get((str(kind), str(name)))


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")
