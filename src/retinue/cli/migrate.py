"""`retinue migrate`: bring the database's schema to this version."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import AsJson
from retinue.cli.screen import Json, Screen

if TYPE_CHECKING:
    from retinue.kernel import Settings

_SUPERUSER = "DATABASE_SUPERUSER_URL"


def migrate(
    create_roles: Annotated[
        bool, typer.Option("--create-roles", help=f"Make roles and database first; needs {_SUPERUSER}.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database to this version. With the embedded database, starting the server does it too.

    An external database needs DATABASE_OWNER_URL. With --create-roles the two roles and the database are made as
    DATABASE_URL and DATABASE_OWNER_URL name them, through a superuser's DATABASE_SUPERUSER_URL.
    """
    result = asyncio.run(_migrate(load_settings(data=data), create_roles))
    screen = Screen(as_json)
    if as_json:
        screen.document(result)
    elif result["before"] == result["after"]:
        screen.line(f"The schema is at {result['after']} already.")
    else:
        screen.line(f"The schema went from {result['before'] or 'nothing'} to {result['after']}.")


async def _migrate(settings: Settings, create_roles: bool) -> Json:
    from asyncpg import PostgresError

    from retinue.cli.opening import about_the_database
    from retinue.database import current_revision
    from retinue.database import migrate as bring_up_to_date
    from retinue.house import House

    house = House(settings)
    try:
        if create_roles:
            await _create_roles(settings)
        _, owner_dsn = await house.open_database_server(serve=False)
        if owner_dsn is None:
            raise Failure("Set DATABASE_OWNER_URL to the owner of the schema.", ExitCode.USAGE)
        before = await current_revision(owner_dsn)
        await bring_up_to_date(owner_dsn)
        return {"before": before, "after": await current_revision(owner_dsn)}
    except (OSError, PostgresError) as error:
        raise about_the_database(error) from None
    finally:
        await house.close()


async def _create_roles(settings: Settings) -> None:
    """Make the two roles and the database that the two URLs name."""
    from retinue.database import prepare_database

    superuser = os.environ.get(_SUPERUSER)
    if not superuser or settings.database_url is None or settings.database_owner_url is None:
        raise Failure(
            f"--create-roles needs {_SUPERUSER}, DATABASE_URL and DATABASE_OWNER_URL. "
            "The embedded database makes its own roles.",
            ExitCode.USAGE,
        )
    application = _parts(settings.database_url.get_secret_value(), "DATABASE_URL", "retinue_app")
    owner = _parts(settings.database_owner_url.get_secret_value(), "DATABASE_OWNER_URL", "retinue_owner")
    if application[0] != owner[0]:
        raise Failure("DATABASE_URL and DATABASE_OWNER_URL name two different databases.", ExitCode.USAGE)
    await prepare_database(superuser, owner[0], owner_password=owner[1], application_password=application[1])


def _parts(url: str, name: str, role: str) -> tuple[str, str]:
    """Return the database and the password of a URL, whose role must be the one that is made."""
    parts = urlsplit(url)
    if parts.username != role or not parts.password or not parts.path.strip("/"):
        raise Failure(f"{name} must look like postgresql://{role}:PASSWORD@HOST/DATABASE", ExitCode.USAGE)
    return unquote(parts.path.strip("/")), unquote(parts.password)


def add_to(program: typer.Typer) -> None:
    """Hang the command into the program."""
    program.command(rich_help_panel="The server")(migrate)
