"""Definitions as YAML, to keep in a repository or to hand on.

Reading is strict and bounded: plain data only, no aliases (a few hundred bytes of them make gigabytes), no anchors, no
tags, no name twice, and what comes out is held to the rules of a JSON body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

from retinue.agents.events import AgentDefinition
from retinue.agents.shapes import NewAgent, shape_of
from retinue.kernel import BadInput, PayloadTooLarge

SPEC_VERSION = 1
MAX_BYTES = 512 * 1024
MAX_DEPTH = 32
_MAX_NODES = 20_000
_ODD_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")


def written(definition: AgentDefinition) -> str:
    """Return a definition as YAML, with every field spelt out."""
    content = {"spec_version": SPEC_VERSION, **shape_of(definition).model_dump(mode="json")}
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def described() -> dict[str, Any]:
    """Return the JSON schema of a document, for the API's description; it refers to schemas of the description."""
    schema = NewAgent.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["title"] = "AgentDocument"
    schema["properties"] = {"spec_version": {"const": SPEC_VERSION, "type": "integer"}, **schema["properties"]}
    schema["required"] = ["spec_version", *schema["required"]]
    schema["examples"] = [{"spec_version": SPEC_VERSION, **example} for example in schema["examples"]]
    return schema


def read(raw: bytes) -> dict[str, Any]:
    """Return the fields of a definition in YAML; what they must be is for :class:`NewAgent` to say.

    Raises:
        PayloadTooLarge: it is longer than :data:`MAX_BYTES`.
        BadInput: it is not YAML, not plain data, not bounded, or not of a ``spec_version`` known here.
    """
    if len(raw) > MAX_BYTES:
        raise PayloadTooLarge(f"An agent in YAML may have up to {MAX_BYTES:,} bytes.")
    try:
        text = raw.decode("utf-8")
        _check_events(text)
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  # _Loader is a SafeLoader
    except UnicodeDecodeError as error:
        raise BadInput(f"The YAML is not UTF-8 (byte {error.start}).", field="body") from None
    except yaml.YAMLError as error:
        raise BadInput(f"The YAML cannot be read: {_reason(error)}", field="body") from None
    except ValueError:  # an impossible number or date
        raise BadInput("The YAML holds a value that cannot be read.", field="body") from None
    return _fields(content)


def _fields(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadInput("Send one YAML mapping, such as an export gives.", field="body")
    _check_values(content)
    version = content.pop("spec_version", None)
    if version != SPEC_VERSION or isinstance(version, bool):
        raise BadInput(
            f"spec_version: this server reads version {SPEC_VERSION}. Write 'spec_version: {SPEC_VERSION}'.",
            field="spec_version",
        )
    return content


def _check_events(text: str) -> None:
    """Look at the document's events before anything is built of them: they come one by one, whatever is nested."""
    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=_PARSER):
        if isinstance(event, yaml.AliasEvent):
            raise BadInput("The YAML holds an alias (*name), which is not accepted.", field="body")
        if getattr(event, "anchor", None) is not None:
            raise BadInput("The YAML holds an anchor (&name), which is not accepted.", field="body")
        if getattr(event, "tag", None) is not None:
            raise BadInput("The YAML holds a tag (!name), which is not accepted.", field="body")
        nodes += isinstance(event, yaml.NodeEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > _MAX_NODES or documents > 1:
            raise BadInput("The YAML is nested too deep, holds too much, or more than one document.", field="body")


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
                field = path or "body"
                raise BadInput(f"{field}: a character is not allowed in text (NUL or half a pair).", field=field)
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


class _Loader(_PARSER):  # type: ignore[misc]  # chosen when the module is loaded
    """A safe loader that refuses a name given twice and leaves dates as text."""

    yaml_implicit_resolvers: Mapping[str, Any] = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
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


def parsed(raw: bytes) -> NewAgent:
    """Return the definition in a YAML document.

    Raises:
        PayloadTooLarge: see :func:`read`.
        BadInput: see :func:`read`; or a field is missing, unknown or wrong, and named.
    """
    fields = read(raw)
    try:
        return NewAgent.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> BadInput:
    found = [
        {"field": ".".join(str(part) for part in one["loc"]) or "body", "message": one["msg"]}
        for one in error.errors(include_input=False, include_url=False)[:100]
    ]
    refusal = BadInput(f"{found[0]['field']}: {found[0]['message']}", field=found[0]["field"])
    refusal.extra["errors"] = found
    return refusal
