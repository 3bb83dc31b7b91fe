"""`retinue costs`: what work cost, what it costs, and how far this month's quota is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.saving import Output, save_csv
from retinue.cli.screen import Column, Json
from retinue.cli.teams import tenant_of

costs = typer.Typer(name="costs", help="What work cost, rates and quotas.", no_args_is_help=True)

By = Annotated[str, typer.Option("--by", help="user, agent, application or day.")]
First = Annotated[str | None, typer.Option("--from", help="First day, such as 2026-01-31 (UTC); 30 days ago.")]
Last = Annotated[str | None, typer.Option("--to", help="Last day (UTC); today.")]
Everybody = Annotated[bool, typer.Option("--everybody", help="Everybody's in the tenant, for its managers.")]
Rate = Annotated[str | None, typer.Option(help="Dollars such as 0.0001; server for the server's own rate.")]

_NO_LIMIT = "no limit"
_SIZES = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))
_RATES = {
    "cpu_second": "a second of CPU",
    "memory_gib_hour": "a GiB-hour of memory",
    "storage_gib_day": "a GiB-day of storage",
    "model_call": "a model call",
}


def _used(name: str, heading: str) -> Column:
    return heading, lambda item: str(item[name]["quantity"])


_SPENT: list[Column] = [
    _used("cpu", "CPU SECONDS"),
    _used("memory", "MEMORY GIB-HOURS"),
    _used("storage", "STORAGE GIB-DAYS"),
    _used("models", "MODEL CALLS"),
    ("UNPRICED", "unpriced_calls"),
    ("COST", lambda item: f"${item['cost']}"),
]


@costs.command("list")
@remote
def list_(
    cli: Remote,
    by: By = "day",
    first: First = None,
    last: Last = None,
    everybody: Everybody = False,
    limit: Limit = 50,
) -> None:
    """Show what your work cost, or everybody's in the tenant."""
    pages = cli.client.pages(_path(cli, everybody), limit=limit, by=by, **_days(first, last))
    named: list[Column] = [("NAME", lambda item: item["name"] or "-")] if by in ("user", "agent") else []
    columns: list[Column] = [(by.upper(), lambda item: str(item["key"] or "-")), *named, *_SPENT]
    cli.show_all(pages, columns, empty="Nothing was charged.")


@costs.command()
@remote
def export(
    cli: Remote,
    file: Output = None,
    by: By = "day",
    first: First = None,
    last: Last = None,
    everybody: Everybody = False,
) -> None:
    """Write costs as CSV, with formulas made harmless."""
    save_csv(cli, f"{_path(cli, everybody)}/export", {"by": by, **_days(first, last)}, file)


@costs.command()
@remote
def rates(
    cli: Remote,
    cpu_second: Rate = None,
    memory_gib_hour: Rate = None,
    storage_gib_day: Rate = None,
    model_call: Rate = None,
) -> None:
    """Show what work costs in the tenant besides the models' own prices, or set it."""
    path = f"/v1/tenants/{tenant_of(cli)}/rates"
    given = dict(zip(_RATES, (cpu_second, memory_gib_hour, storage_gib_day, model_call), strict=True))
    answer = cli.client.request("GET", path)
    shown: Json = answer.json()
    if any(rate is not None for rate in given.values()):
        own = {name: shown[name]["rate"] if shown[name]["own"] else None for name in _RATES}
        wanted = own | {name: None if rate == "server" else rate for name, rate in given.items() if rate is not None}
        shown = cli.client.put(path, wanted, if_match=answer.headers["ETag"])
    fields: list[Column] = [(words, _rate(name)) for name, words in _RATES.items()]
    cli.show(shown, fields)


@costs.command()
@remote
def quota(cli: Remote, everybody: Everybody = False) -> None:
    """Show how far your month is used, or everybody's in the tenant."""
    if everybody:
        columns: list[Column] = [
            ("USER", "user_id"),
            ("NAME", lambda item: item["name"] or "-"),
            ("OPERATIONS", lambda item: str(item["operations"]["used"])),
            ("LEFT", lambda item: _or_none(item["operations"]["left"])),
        ]
        path = f"/v1/tenants/{tenant_of(cli)}/quota"
        cli.show_all(cli.client.pages(path), columns, empty="Nobody has begun an operation this month.")
        return
    cli.show(cli.client.get("/v1/my/quota"), _QUOTA)


def _bytes(count: int | None) -> str:
    if count is None:
        return _NO_LIMIT
    return next((f"{count / size:.3g} {unit}" for unit, size in _SIZES if count >= size), f"{count} bytes")


_QUOTA: list[Column] = [
    ("tier", "tier"),
    ("operations", lambda item: _of(str(item["operations"]["used"]), _or_none(item["operations"]["limit"]))),
    ("begins anew", "begins_anew"),
    (
        "storage",
        lambda item: _of(_bytes(item["storage"]["used_bytes"]), _bytes(item["storage"]["limit_bytes"])),
    ),
    ("kept for", lambda item: "ever" if item["retention_days"] is None else f"{item['retention_days']:g} days"),
]


def _of(used: str, limit: str) -> str:
    return f"{used}, no limit" if limit == _NO_LIMIT else f"{used} of {limit}"


def _rate(name: str) -> Callable[[Json], str]:
    return lambda item: f"${item[name]['rate']}" + ("" if item[name]["own"] else " (the server's)")


def _or_none(number: int | None) -> str:
    return _NO_LIMIT if number is None else str(number)


def _path(cli: Remote, everybody: bool) -> str:
    return f"/v1/tenants/{tenant_of(cli)}/costs" if everybody else "/v1/my/costs"


def _days(first: str | None, last: str | None) -> dict[str, object]:
    return {"from": first, "to": last}
