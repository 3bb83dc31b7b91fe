"""`retinue grants`: what applications may do in your name, and the keys of applications."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.artifacts import artifact_id
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.remote import AsJson, Limit, Remote, remote
from retinue.cli.screen import Column, Json, Screen, moment
from retinue.cli.teams import tenant_of
from retinue.cli.times import expiry

if TYPE_CHECKING:
    from retinue_client import GranteeKey

grants = typer.Typer(name="grants", help="What applications may do in your name.", no_args_is_help=True)

Grant = Annotated[str, typer.Argument(metavar="GRANT", help="Application or id, or last.")]
_UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60))

Everybody = Annotated[bool, typer.Option("--everybody", help="Everybody's in the tenant, for its admins.")]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key", help="The application's key file, or the file of `keygen --public`.", metavar="FILE"),
]


def _used(item: Json) -> str:
    return f"{item['used']} of {item['uses']}" if item["uses"] is not None else str(item["used"])


def _spent(item: Json) -> str:
    return f"${item['spent']}" + (f" of ${item['budget']}" if item["budget"] is not None else "")


COLUMNS: list[Column] = [
    ("APPLICATION", "application"),
    ("STATE", "state"),
    ("USED", _used),
    ("SPENT", _spent),
    ("EXPIRES", lambda item: moment(item["expires_at"])),
    ("ID", "grant_id"),
]


def _list(name: str, none: str) -> Column:
    return name, lambda item: ", ".join(map(str, item[name] or [])) or none


_FIELDS: list[Column] = [
    ("grant", "grant_id"),
    ("application", "application"),
    ("state", "state"),
    ("given by", "owner_id"),
    ("key", "grantee"),
    ("sealed to", lambda item: item["seal_to"] or "nobody: the server decrypts"),
    _list("drivers", "those of the tenant"),
    _list("models", "those of the tenant"),
    _list("files", "what it uploads itself"),
    ("parameters", lambda item: "anything" if item["parameters"] is None else json.dumps(item["parameters"])),
    ("used", _used),
    ("spent", _spent),
    ("reserved", lambda item: f"${item['reserved']}"),
    ("kept for", lambda item: _seconds(item["retention_seconds"])),
    ("may run for", lambda item: _seconds(item["limits"]["seconds"])),
    ("created", lambda item: moment(item["created_at"])),
    ("expires", lambda item: moment(item["expires_at"])),
    ("revoked", lambda item: moment(item["revoked_at"])),
]


@grants.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to keep the key; the file must not be there.")],
    public: Annotated[
        Path | None, typer.Option("--public", help="Also write what the user who grants needs.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the key of an application. It asks no server; the file never leaves the application's machine."""
    from retinue_client import GranteeKey

    key = GranteeKey.make()
    shown = {"grantee": key.keyid, "seal_to": key.seal_to}
    try:
        key.save(file)
        if public is not None:
            with public.open("x", encoding="utf-8") as out:
                out.write(json.dumps(shown, indent=2) + "\n")
    except OSError as error:
        where = error.filename or file
        if isinstance(error, FileExistsError):
            raise Failure(f"There is a file {where} already; a key is never overwritten.", ExitCode.USAGE) from None
        raise Failure(f"{where} cannot be written: {error.strerror}.", ExitCode.USAGE) from None
    screen = Screen(as_json)
    if as_json:
        screen.document({"file": str(file), **shown})
        return
    screen.line(f"The key is in {file}. Nobody else may read it, and nobody can make it again.")
    screen.line(f"grantee: {key.keyid}")
    screen.line(f"seal_to: {key.seal_to}")


@grants.command()
@remote
def create(
    cli: Remote,
    application: Annotated[str, typer.Argument(metavar="APPLICATION", help="What you call the application.")],
    key: KeyFile = None,
    grantee: Annotated[str | None, typer.Option("--grantee", help="Its key: ed25519:... or eip155:0x...")] = None,
    seal_to: Annotated[
        str | None, typer.Option("--seal-to", help="Its public key to seal results to: X25519 in base64url.")
    ] = None,
    driver: Annotated[list[str] | None, typer.Option("--driver", help="Such as qwen; repeat it for more.")] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="Such as openai:*; repeat it for more.")] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", help="An artifact of yours to work on: name or id, or last; repeat it for more."),
    ] = None,
    parameters: Annotated[
        Path | None, typer.Option("--parameters", help="A JSON Schema of what it may ask for.", metavar="FILE")
    ] = None,
    uses: Annotated[int | None, typer.Option("--uses", min=1, help="How many operations.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="Dollars for all of them, such as 5.00.")] = None,
    retention: Annotated[int | None, typer.Option("--retention", min=60, help="Seconds that results are kept.")] = None,
    seconds: Annotated[int | None, typer.Option("--seconds", min=1, help="Seconds that one operation may run.")] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="When it ends, such as 2026-12-31T18:00, in local time.", metavar="TIME"),
    ] = None,
) -> None:
    """Grant an application something: name its key by --key, or by --grantee.

    What is left out is as the tenant's policy says; but without --file it works on its own uploads alone.
    """
    given: Json = {
        "application": application,
        "seal_to": seal_to,
        "grantee": grantee,
        "drivers": driver,
        "models": model,
        "files": None if file is None else [artifact_id(cli, one) for one in file],
        "parameters": None if parameters is None else _document(parameters),
        "uses": uses,
        "budget": budget,
        "retention_seconds": retention,
        "limits": None if seconds is None else {"seconds": seconds},
        "expires_at": None if expires is None else expiry(expires),
    }
    if key is not None and grantee is not None:
        raise Failure("Name the application's key by --key or by --grantee, not by both.", ExitCode.USAGE)
    wanted = {name: value for name, value in given.items() if value is not None}
    if key is not None:
        wanted = _public_of(key) | wanted
    if "grantee" not in wanted:
        raise Failure("Name the application's key by --key or --grantee.", ExitCode.USAGE)
    made = cli.client.post("/v1/my/grants", wanted)
    cli.done(f"Granted {application}: {made['grant_id']}. It needs this id and the server's URL.", made)


@grants.command("list")
@remote
def list_(
    cli: Remote,
    everybody: Everybody = False,
    alive: Annotated[bool, typer.Option("--alive", help="Leave out those that are over.")] = False,
    limit: Limit = 50,
) -> None:
    """List your grants, or everybody's in the tenant."""
    pages = cli.client.pages(_path(cli, everybody), limit=limit, **({"alive": "true"} if alive else {}))
    cli.show_all(pages, COLUMNS, empty="No grants.")


@grants.command()
@remote
def show(cli: Remote, grant: Grant, everybody: Everybody = False) -> None:
    """Show what a grant allows, and how much of it is used."""
    path = _path(cli, everybody)
    cli.show(cli.client.get(f"{path}/{Finder(cli.client).grant(grant, path)}"), _FIELDS)


@grants.command()
@remote
def history(cli: Remote, grant: Grant, everybody: Everybody = False, limit: Limit = 0) -> None:
    """List every use of a grant, oldest first."""
    path = _path(cli, everybody)
    pages = cli.client.pages(f"{path}/{Finder(cli.client).grant(grant, path)}/events", limit=limit)
    columns: list[Column] = [
        ("TIME", lambda item: moment(item["recorded_at"])),
        ("WHAT", lambda item: str(item["data"].get("what") or item["type"])),
        ("ON", lambda item: str(item["data"].get("subject") or "")),
        ("BY", "actor"),
    ]
    cli.show_all(pages, columns, empty="Nothing happened.")


@grants.command()
@remote
def revoke(cli: Remote, grant: Grant, everybody: Everybody = False) -> None:
    """Take a grant back at once; what runs under it is stopped."""
    path = _path(cli, everybody)
    path = f"{path}/{Finder(cli.client).grant(grant, path)}"
    found = cli.client.get(path)
    if found["revoked_at"]:
        raise Failure(f"{found['application']} was revoked already, at {moment(found['revoked_at'])}.")
    cli.client.delete(path)
    cli.done(f"Revoked {found['application']} ({found['grant_id']}).")


def _path(cli: Remote, everybody: bool) -> str:
    return f"/v1/tenants/{tenant_of(cli)}/grants" if everybody else "/v1/my/grants"


def _seconds(count: int | None) -> str:
    if count is None:
        return "as the tenant's policy says"
    return next((f"{count / size:.3g} {unit}" for unit, size in _UNITS if count >= 2 * size), f"{count} seconds")


def _document(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
    except ValueError as error:
        raise Failure(f"{file} is no JSON document: {error}", ExitCode.USAGE) from None


def _public_of(file: Path) -> dict[str, str]:
    """Read the public part of a key, from its own file or from the one that `keygen --public` wrote."""
    from retinue_client import GranteeKey

    stored = _document(file)
    if isinstance(stored, dict) and isinstance(stored.get("grantee"), str):
        return {name: str(stored[name]) for name in ("grantee", "seal_to") if stored.get(name)}
    try:
        key: GranteeKey = GranteeKey.load(file)
    except ValueError:
        text = f"{file} is no application's key: give what `retinue grants keygen` made, the key or its public part."
        raise Failure(text, ExitCode.USAGE) from None
    return {"grantee": key.keyid, "seal_to": key.seal_to}
