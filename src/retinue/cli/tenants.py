"""`retinue tenants`: organisations, their people, their money, their model keys; their tier, for the operator."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.opening import opened_ledger
from retinue.cli.remote import AsJson, Limit, Remote, remote
from retinue.cli.screen import Column, Screen, moment

if TYPE_CHECKING:
    from retinue.kernel import Settings

tenants = typer.Typer(name="tenants", help="Organisations, members, budgets and secrets.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Name, id or personal.")]
MemberName = Annotated[str, typer.Argument(metavar="MEMBER", help="E-mail address or user id.")]
Role = Annotated[str, typer.Option("--role", help="viewer, member, manager or admin.")]
Provider = Annotated[str, typer.Argument(metavar="PROVIDER", help="openai, anthropic or google.")]

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("ROLE", "role"),
    ("KIND", lambda tenant: "personal" if tenant.get("personal") else "organisation"),
    ("STOPPED", lambda tenant: moment(tenant.get("stopped_at"))),
    ("ID", "tenant_id"),
]
MEMBERS: list[Column] = [("E-MAIL", "email"), ("NAME", "name"), ("ROLE", "role"), ("USER", "user_id")]
BUDGET: list[Column] = [
    ("limit", lambda budget: f"${budget['limit']}" if budget.get("limit") is not None else "none"),
    ("period", "period"),
    ("spent", lambda budget: f"${budget.get('spent', '0')}"),
    ("reserved", lambda budget: f"${budget.get('reserved', '0')}"),
]


@tenants.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List the tenants you belong to."""
    cli.show_all(cli.client.pages("/v1/tenants", limit=limit), COLUMNS, empty="You belong to no tenant.")


@tenants.command()
@remote
def create(cli: Remote, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]) -> None:
    """Make an organisation; you are its admin."""
    item = cli.client.post("/v1/tenants", {"name": name})
    cli.done(f"Created {name} ({item['tenant_id']}). Work in it: --tenant {item['tenant_id']}", item)


@tenants.command()
@remote
def members(cli: Remote, tenant: TenantName, limit: Limit = 0) -> None:
    """List a tenant's members."""
    path = f"/v1/tenants/{_entered(cli, tenant)}/members"
    cli.show_all(cli.client.pages(path, limit=limit), MEMBERS, empty="No members.")


@tenants.command()
@remote
def add(cli: Remote, tenant: TenantName, email: MemberName, role: Role = "member") -> None:
    """Add a member who has an account here."""
    item = cli.client.put(f"/v1/tenants/{_entered(cli, tenant)}/members", {"email": email, "role": role})
    cli.done(f"{email} is now {role} of {tenant}.", item)


@tenants.command()
@remote
def role(
    cli: Remote, tenant: TenantName, member: MemberName, role: Annotated[str, typer.Argument(metavar="ROLE")]
) -> None:
    """Give a member another role."""
    tenant_id = _entered(cli, tenant)
    path = f"/v1/tenants/{tenant_id}/members/{Finder(cli.client).member(tenant_id, member)}"
    cli.done(f"{member} is now {role} of {tenant}.", cli.client.put(path, {"role": role}))


@tenants.command()
@remote
def remove(cli: Remote, tenant: TenantName, member: MemberName) -> None:
    """Take a member out."""
    tenant_id = _entered(cli, tenant)
    cli.client.delete(f"/v1/tenants/{tenant_id}/members/{Finder(cli.client).member(tenant_id, member)}")
    cli.done(f"{member} is no longer a member of {tenant}.")


@tenants.command()
@remote
def leave(cli: Remote, tenant: TenantName) -> None:
    """Leave an organisation."""
    cli.client.post(f"/v1/tenants/{_entered(cli, tenant)}/leave")
    cli.done(f"You have left {tenant}.")


@tenants.command()
@remote
def stop(
    cli: Remote,
    tenant: TenantName,
    reason: Annotated[str, typer.Option("--reason", help="Why; everybody in the tenant sees it.", prompt=True)],
) -> None:
    """Emergency stop: nothing new starts, and what runs stops at its next step."""
    item = cli.client.post(f"/v1/tenants/{_entered(cli, tenant)}/stop", {"reason": reason})
    cli.done(f"{tenant} is stopped. Let it go on with: retinue tenants resume {tenant}", item)


@tenants.command()
@remote
def resume(cli: Remote, tenant: TenantName) -> None:
    """Let a stopped tenant go on."""
    item = cli.client.post(f"/v1/tenants/{_entered(cli, tenant)}/resume")
    cli.done(f"{tenant} goes on.", item)


@tenants.command()
@remote
def budget(
    cli: Remote,
    tenant: TenantName,
    limit: Annotated[str | None, typer.Option("--set", help="Dollars such as 12.50; none for no limit.")] = None,
    period: Annotated[str, typer.Option("--period", help="month or total.")] = "month",
) -> None:
    """Show a tenant's budget, or set it."""
    path = f"/v1/tenants/{_entered(cli, tenant)}/budget"
    if limit is not None:
        cli.client.put(path, {"limit": None if limit == "none" else limit, "period": period})
    cli.show(cli.client.get(path), BUDGET)


@tenants.command()
@remote
def secrets(cli: Remote, tenant: TenantName) -> None:
    """List which secrets a tenant has. Their values never leave the server."""
    path = f"/v1/tenants/{_entered(cli, tenant)}/secrets"
    columns: list[Column] = [("NAME", "name"), ("CHANGED", lambda item: moment(item.get("changed_at")))]
    cli.show_all(cli.client.pages(path), columns, empty="No secrets.")


@tenants.command()
@remote
def set_secret(
    cli: Remote,
    tenant: TenantName,
    provider: Provider,
    base_url: Annotated[str | None, typer.Option("--base-url", help="Where the provider is.")] = None,
) -> None:
    """Keep a model provider's key for a tenant; it is read from standard input or asked for."""
    body = {"api_key": _secret(), **({"base_url": base_url} if base_url else {})}
    cli.client.put(f"/v1/tenants/{_entered(cli, tenant)}/secrets/{provider}", body)
    cli.done(f"{tenant} has a key for {provider}.")


@tenants.command()
@remote
def drop_secret(cli: Remote, tenant: TenantName, provider: Provider) -> None:
    """Delete a tenant's secret."""
    cli.client.delete(f"/v1/tenants/{_entered(cli, tenant)}/secrets/{provider}")
    cli.done(f"{tenant} has no key for {provider} any more.")


@tenants.command()
def tier(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Its id; the list of tenants shows it.")],
    name: Annotated[str, typer.Argument(metavar="TIER", help="free, pro or own.")],
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Put a tenant into another tier, which says what its users get in a month.

    For whoever runs the server: it works on its database, with its settings. Servers may run meanwhile.
    """
    tenant_id, settings = _tenant_id(tenant), load_settings(data=data)
    if settings.database_url is None and not settings.data.is_dir():
        text = f"There is no server's data in {settings.data}. Name the folder by --data, or set RETINUE_DATA."
        raise Failure(text, ExitCode.NOT_FOUND)
    former = asyncio.run(_set_tier(settings, tenant_id, name))
    screen = Screen(as_json)
    if as_json:
        screen.document({"tenant_id": str(tenant_id), "tier": name, "former": former})
    screen.line(f"{tenant} is in the tier {name} now; before, it was in {former}.")


def _tenant_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Failure("Name the tenant by its id: retinue tenants list shows it.", ExitCode.USAGE) from None


async def _set_tier(settings: Settings, tenant_id: UUID, name: str) -> str:
    """Set the tier in the database, and return the former one's name."""
    from retinue.database import Database
    from retinue.kernel import SYSTEM, Scope, SystemClock
    from retinue.metering import TIERS, set_tier, tier_of
    from retinue.tenancy import this_tenant

    wanted = next((one for one in TIERS if one == name), None)
    if wanted is None:
        raise Failure(f"There is no tier {name}. There are {', '.join(TIERS)}.", ExitCode.USAGE)
    async with opened_ledger(settings) as services, services.get(Database).transaction(tenant_id) as uow:
        scope = Scope(tenant_id, SYSTEM, uow, SystemClock(), services, cause="command:tenants tier")
        if await this_tenant(scope) is None:
            raise Failure("There is no such tenant.", ExitCode.NOT_FOUND)
        former = (await tier_of(scope)).name
        await set_tier(scope, wanted)
        return former


def _entered(cli: Remote, tenant: str) -> str:
    """Return the tenant's id, and work in it from here on."""
    tenant_id = Finder(cli.client).tenant(tenant)
    cli.client.tenant = tenant_id
    return tenant_id


def _secret() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Key", hide_input=True, err=True))
    text = sys.stdin.readline().strip()
    if not text:
        raise Failure("The key is missing; pipe it in.", ExitCode.USAGE)
    return text
