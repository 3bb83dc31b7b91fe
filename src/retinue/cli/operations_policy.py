"""`retinue operations policy`: what holds for a tenant's operations, for its admins to change."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote, remote
from retinue.cli.screen import Column, Json
from retinue.cli.teams import tenant_of

policy = typer.Typer(name="policy", help="What holds for the tenant's operations.", no_args_is_help=True)

_LISTS = ("drivers", "models")
_TEXTS = ("min_level", "model", "budget")
_SIZES = ("memory", "disk", "output", "artifact_bytes", "user_storage")
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
_TIMES = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")

Changes = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME=VALUE...",
        help="Such as limits.memory=4GB most.seconds=2h drivers=qwen,gemini; none, or default for the default.",
    ),
]


@policy.command()
@remote
def show(cli: Remote) -> None:
    """Show what holds for the tenant's operations, by the names that `set` takes."""
    found: Json = cli.client.get(_path(cli))
    columns: list[Column] = [(name, _shown(name, value)) for name, value in _flat(found).items()]
    cli.show(found, columns)


@policy.command("set")
@remote
def set_(cli: Remote, changes: Changes) -> None:
    """Change what is named, and leave the rest as it is. For admins.

    Sizes may have kB, MB or GB, and times s, m, h or d.
    """
    path = _path(cli)
    answer = cli.client.request("GET", path)
    wanted = answer.json()
    known = _flat(wanted)
    del wanted["version"]
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise Failure(f"{change}: write NAME=VALUE, such as at_once=3.", ExitCode.USAGE)
        if name not in known:
            raise Failure(f"There is no {name} in the policy. There are: {', '.join(known)}.", ExitCode.USAGE)
        above, _, field = name.rpartition(".")
        where = wanted[above] if above else wanted
        if text == "default":
            where.pop(field, None)
        else:
            where[field] = _value(name, field, text)
    shown = cli.client.put(path, wanted, if_match=answer.headers["ETag"])
    named = ", ".join(dict.fromkeys(change.partition("=")[0] for change in changes))
    cli.done(f"Changed: {named}. It holds from now on.", shown)


def _path(cli: Remote) -> str:
    return f"/v1/tenants/{tenant_of(cli)}/operations/policy"


def _flat(found: Json) -> dict[str, Any]:
    """Return a policy's fields by the names that people use: ``limits.seconds``."""
    flat: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif name != "version":
            flat[name] = value
    return flat


def _shown(name: str, value: Any) -> Any:
    field = name.rpartition(".")[2]
    if value is None or value == []:
        text = {"drivers": "all", "models": "all", "model": "the server's"}.get(field, "none")
    elif isinstance(value, list):
        text = ",".join(value)
    elif field in _SIZES:
        text = _with_unit(value, _UNITS)
    elif field.endswith("seconds"):
        text = _with_unit(value, _TIMES)
    else:
        text = f"${value}" if field == "budget" else f"{value:g}" if isinstance(value, float) else str(value)
    return lambda _: text


def _with_unit(value: float, units: dict[str, int]) -> str:
    """Write a number in the largest unit of which it is a whole one, as `set` reads it."""
    for unit, size in sorted(units.items(), key=lambda one: -one[1]):
        if value >= size and value % size == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _value(name: str, field: str, text: str) -> Any:
    if field in _LISTS:
        return [] if text == "none" else [one.strip() for one in text.split(",") if one.strip()]
    if text == "none":
        return None
    if field in _TEXTS:
        return text.removeprefix("$") if field == "budget" else text
    units = _UNITS if field in _SIZES else _TIMES if field.endswith("seconds") else {}
    found = _NUMBER.fullmatch(text)
    if found is None or (found[2] and found[2] not in units):
        example = ", such as " + {1_000: "500MB", 1: "90s"}[min(units.values())] if units else ""
        raise Failure(f"{name}={text}: a number is needed{example}.", ExitCode.USAGE)
    number = float(found[1]) * units.get(found[2], 1)
    return int(number) if number.is_integer() else number
