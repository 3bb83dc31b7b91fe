"""Documents in YAML, read strictly and within bounds, with the line of everything in them.

Plain data only: no aliases (a few hundred bytes of them make gigabytes), no anchors, no tags, no name twice, and what
comes out is held to the rules of a JSON body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from retinue.kernel.faults import BadInput, PayloadTooLarge

MAX_DEPTH = 32
MAX_NODES = 20_000
_ODD_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A document that is a mapping.

    Attributes:
        content: plain data, as a JSON body would hold it.
        lines: the line, from 1, of everything in it, by path; a field's is that of its name.
    """

    content: dict[str, Any]
    lines: Mapping[Path, int] = field(repr=False)

    def line(self, path: Sequence[str | int]) -> int:
        """Return the line of what a path leads to, or of the nearest thing around it."""
        for length in range(len(path), 0, -1):
            if (found := self.lines.get(tuple(path[:length]))) is not None:
                return found
        return 1


def read_yaml(raw: bytes, *, what: str, most_bytes: int, most_depth: int = MAX_DEPTH) -> YamlDocument:
    """Read one mapping.

    Args:
        what: the name of what it holds, for messages: ``an agent``.
        most_bytes: how long it may be.
        most_depth: how deep it may be nested.

    Raises:
        PayloadTooLarge: it is longer than ``most_bytes``.
        BadInput: it is not YAML, not plain data, not a mapping, or not bounded; ``extra["line"]`` is where, if known.
    """
    if len(raw) > most_bytes:
        raise PayloadTooLarge(f"{what[:1].upper()}{what[1:]} in YAML may have up to {most_bytes:,} bytes.")
    try:
        text = raw.decode("utf-8")
        lines = _check_events(text, most_depth)
        content = yaml.load(text, Loader=YamlLoader)  # noqa: S506  # YamlLoader is a SafeLoader
    except UnicodeDecodeError as error:
        raise BadInput(f"The YAML is not UTF-8 (byte {error.start}).", field="body") from None
    except yaml.YAMLError as error:
        raise _unreadable(error) from None
    except ValueError:  # an impossible number or date
        raise BadInput("The YAML holds a value that cannot be read.", field="body") from None
    if not isinstance(content, dict):
        raise BadInput("Send one YAML mapping.", field="body")
    _check_values(content)
    return YamlDocument(content, lines)


def write_yaml(content: Mapping[str, Any]) -> str:
    """Write plain data as YAML; long texts as blocks, the way people write them."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _unreadable(error: yaml.YAMLError) -> BadInput:
    fault = BadInput(f"The YAML cannot be read: {_reason(error)}", field="body")
    if (mark := getattr(error, "problem_mark", None)) is not None:
        fault.extra["line"] = mark.line + 1
    return fault


class _Places:
    """Follows the events of a document and notes the line of every path."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self._open: list[list[Any]] = []  # [is a mapping, the name or index that is next, whether a name is next]

    def see(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._ended()
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begins(event)
            self._open.append([isinstance(event, yaml.MappingStartEvent), 0, True])
        elif isinstance(event, yaml.ScalarEvent):
            top = self._open[-1] if self._open else None
            if top is not None and top[0] and top[2]:
                top[1], top[2] = event.value, False
                self.lines.setdefault(self._path(), _line(event))
            else:
                self._begins(event)
                self._ended()

    def _begins(self, event: yaml.Event) -> None:
        if self._open and not self._open[-1][0]:
            self.lines.setdefault(self._path(), _line(event))

    def _ended(self) -> None:
        if not self._open:
            return
        top = self._open[-1]
        if top[0]:
            top[2] = not top[2]
        else:
            top[1] += 1

    def _path(self) -> Path:
        return tuple(one[1] for one in self._open)


def _check_events(text: str, most_depth: int) -> Mapping[Path, int]:
    """Look at the document's events before anything is built of them: they come one by one, whatever is nested."""
    depth = nodes = documents = 0
    places = _Places()
    for event in yaml.parse(text, Loader=_PARSER):
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            raise _at(line, "The YAML holds an alias (*name), which is not accepted.")
        if getattr(event, "anchor", None) is not None:
            raise _at(line, "The YAML holds an anchor (&name), which is not accepted.")
        if getattr(event, "tag", None) is not None:
            raise _at(line, "The YAML holds a tag (!name), which is not accepted.")
        nodes += isinstance(event, yaml.NodeEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > most_depth or nodes > MAX_NODES or documents > 1:
            raise _at(line, "The YAML is nested too deep, holds too much, or more than one document.")
        places.see(event)
    return places.lines


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _at(line: int, message: str) -> BadInput:
    fault = BadInput(message, field="body")
    fault.extra["line"] = line
    return fault


def _check_values(content: object) -> None:
    """Refuse what a JSON body could not hold either."""
    left: list[tuple[str, object]] = [("", content)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            for name, inside in value.items():
                if not isinstance(name, str):
                    raise BadInput(f"{path or 'body'}: the name {name!r} must be text.", field=path or "body")
                left += [("", name), (f"{path}.{name}".lstrip("."), inside)]
        elif isinstance(value, list):
            left += [(f"{path}.{n}", inside) for n, inside in enumerate(value)]
        elif isinstance(value, str):
            if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                where = path or "body"
                raise BadInput(f"{where}: a character is not allowed in text (NUL or half a pair).", field=where)
        elif isinstance(value, int):
            if abs(value) >= 2**63:
                raise BadInput(f"{path}: the number does not fit 64 bits.", field=path or "body")
        elif value is not None and not (isinstance(value, float) and math.isfinite(value)):
            raise BadInput(f"{path}: this value has no JSON form.", field=path or "body")


def _reason(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it is not valid"
    mark = getattr(error, "problem_mark", None)
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})" if mark else f"{problem}"


# The parser of libyaml is many times faster; every wheel of PyYAML has it, a build from source may not.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlLoader(_PARSER):  # type: ignore[misc]  # chosen when the module is loaded
    """A safe loader that refuses a name given twice and leaves dates as text."""

    yaml_implicit_resolvers: Mapping[str, Any] = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, and refuse it when a name is there twice."""
        found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a name is given twice", node.start_mark)
        return found


class _Dumper(yaml.SafeDumper):
    """Writes long texts the way people write them: as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only between double quotes does every line end keep its kind.
    style = '"' if _ODD_LINE_ENDS.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
