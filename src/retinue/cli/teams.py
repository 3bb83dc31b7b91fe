"""`retinue teams`: who within a tenant sees what belongs to them."""

from __future__ import annotations

from typing import Annotated

import typer

from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, moment

teams = typer.Typer(name="teams", help="Teams of a tenant: who sees which work items.", no_args_is_help=True)

TeamName = Annotated[str, typer.Argument(metavar="TEAM", help="Name or id.")]
MemberName = Annotated[str, typer.Argument(metavar="MEMBER", help="E-mail address, name or user id.")]

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("CREATED", lambda team: moment(team.get("created_at"))),
    ("ID", "team_id"),
]
MEMBERS: list[Column] = [("USER", "user_id"), ("SINCE", lambda member: moment(member.get("joined_at")))]


@teams.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List the teams of the tenant you work in."""
    cli.show_all(
        cli.client.pages(_path(cli), limit=limit), COLUMNS, empty="No teams. Create one: retinue teams create NAME"
    )


@teams.command()
@remote
def create(cli: Remote, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]) -> None:
    """Make a team; you are its first member."""
    item = cli.client.post(_path(cli), {"name": name})
    cli.done(f"Created {item['name']} ({item['team_id']}).", item)


@teams.command()
@remote
def rename(
    cli: Remote, team: TeamName, name: Annotated[str, typer.Argument(metavar="NAME", help="The new name.")]
) -> None:
    """Give a team another name."""
    item = cli.client.put(_team(cli, team), {"name": name})
    cli.done(f"{team} is called {item['name']} now.", item)


@teams.command()
@remote
def delete(cli: Remote, team: TeamName) -> None:
    """Delete a team to which no work item belongs."""
    cli.client.delete(_team(cli, team))
    cli.done(f"Deleted {team}.")


@teams.command()
@remote
def members(cli: Remote, team: TeamName, limit: Limit = 0) -> None:
    """List a team's members."""
    cli.show_all(cli.client.pages(f"{_team(cli, team)}/members", limit=limit), MEMBERS, empty="Nobody is in it.")


@teams.command()
@remote
def add(cli: Remote, team: TeamName, member: MemberName) -> None:
    """Take a member of the tenant into a team."""
    cli.client.put(f"{_team(cli, team)}/members/{_member(cli, member)}", None)
    cli.done(f"{member} is in {team} now.")


@teams.command()
@remote
def remove(cli: Remote, team: TeamName, member: MemberName) -> None:
    """Take somebody out of a team."""
    cli.client.delete(f"{_team(cli, team)}/members/{_member(cli, member)}")
    cli.done(f"{member} is not in {team} any more.")


def tenant_of(cli: Remote) -> str:
    """Return the tenant the command works in."""
    return cli.client.tenant or Finder(cli.client).tenant("personal")


def _path(cli: Remote) -> str:
    return f"/v1/tenants/{tenant_of(cli)}/teams"


def _team(cli: Remote, name: str) -> str:
    return f"{_path(cli)}/{Finder(cli.client).team(tenant_of(cli), name)}"


def _member(cli: Remote, name: str) -> str:
    return Finder(cli.client).member(tenant_of(cli), name)
