"""`retinue vault`: the keys under which secrets are kept. Works on data folder and database, without HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retinue.cli.configuration import Data, load_settings
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import AsJson
from retinue.cli.screen import Json, Screen

if TYPE_CHECKING:
    from retinue.database import Database
    from retinue.kernel import Settings

vault = typer.Typer(name="vault", help="The keys under which the server keeps secrets.", no_args_is_help=True)

_WHAT = """\
This makes a new root key and wraps every tenant's keys by it. Secrets, logins and API keys stay as they are, and
servers may run meanwhile if they read this very file: {path}
The former key is forgotten. Keep your copy of it for as long as you keep backups of the database made until now."""


@vault.callback()
def _noun() -> None:
    """Keep the program's form, a noun and a verb, while there is one verb only."""


@vault.command("rotate-root")
def rotate_root(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Go on though servers or workers run on other machines.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Replace the root key, as when somebody may have read it.

    Run it where the server's data folder is, as the server's account, with the server's settings. It can be stopped at
    any moment: everything opens as before, and running it again finishes the work.
    """
    settings = load_settings(data=data)
    screen = Screen(as_json)
    path = settings.data / "root.key"
    _refuse_unless_ours(path)
    if not yes:
        screen.note(_WHAT.format(path=path))
        if not sys.stdin.isatty():
            raise Failure("Nobody is here to be asked. Say --yes if it is meant.", ExitCode.USAGE)
        typer.confirm("Go on?", abort=True, err=True)
    result = asyncio.run(_rotate(settings, elsewhere))
    if as_json:
        screen.document(result)
    screen.line(f"The root key is {result['root_id']} now; the keys of {result['tenants']} tenants are wrapped by it.")
    screen.line(f"Copy {path} to where you keep its copy, and to every other machine of this server.")


def _refuse_unless_ours(path: Path) -> None:
    """Refuse where there is nothing to rotate, or where the server could not read the new file."""
    try:
        owner = path.stat().st_uid
    except FileNotFoundError:
        raise Failure(f"There is no {path}. The server's first start makes it; --data names another folder.") from None
    except OSError as error:
        raise Failure(f"{path} cannot be looked at: {error.strerror}.", ExitCode.REFUSED) from None
    if owner != os.geteuid():
        raise Failure(
            f"{path} belongs to the account {owner}, and this is {os.geteuid()}: the server could not read the new "
            "file. Run it as the server's account.",
            ExitCode.REFUSED,
        )


async def _rotate(settings: Settings, elsewhere: bool) -> Json:
    from retinue.cli.opening import opened_pool
    from retinue.vault import Vault
    from retinue.vault import rotate_root as rotate

    async with opened_pool(settings) as (_, database):
        if not elsewhere:
            await _refuse_other_machines(database)
        opened = await Vault.open(settings, database)
        tenants = await rotate(database, opened)
        return {"root_id": opened.ring.root_id, "tenants": tenants}


async def _refuse_other_machines(database: Database) -> None:
    """Refuse while somebody runs who may have a copy of the file: that copy would open nothing any more."""
    from retinue.dispatch import other_machines

    async with database.routing() as queries:
        found = await other_machines(queries)
    if found:
        raise Failure(
            f"Processes of this server run on other machines: {', '.join(found)}. If they read the same file, say "
            "--elsewhere. If each has a copy, stop them, rotate, and copy the new file to them before they start."
        )
