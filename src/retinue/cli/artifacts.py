"""`retinue artifacts`: files under seal; also opens a sealed file, for which no server is asked."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from retinue.cli.failures import ExitCode, Failure, Refusal
from retinue.cli.finding import Finder, is_id
from retinue.cli.remote import AsJson, Limit, Remote, remote
from retinue.cli.saving import Output
from retinue.cli.screen import Column, Json, Screen, compact, moment

artifacts = typer.Typer(name="artifacts", help="Files under seal.", no_args_is_help=True)

ARTIFACTS = "/v1/artifacts"
UPLOADS = "/v1/uploads"
_TUS = {"Tus-Resumable": "1.0.0"}
_SMALL = 4 * 1_048_576
_PIECE = 8 * 1_048_576
_TRIES = 5

Artifact = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="Name or id, or last; of a name, the newest version.")
]

COLUMNS: list[Column] = [
    ("NAME", lambda item: compact(item["name"], 50)),
    ("VERSION", "number"),
    ("SIZE", lambda item: f"{item['size']:,}"),
    ("TYPE", "media_type"),
    ("KIND", "kind"),
    ("EXPIRES", lambda item: moment(item["expires_at"])),
    ("ID", "artifact_id"),
]
_FIELDS: list[Column] = [
    ("artifact", "artifact_id"),
    ("name", "name"),
    ("version", "number"),
    ("size", lambda item: f"{item['size']:,} bytes"),
    ("type", "media_type"),
    ("sha256", "sha256"),
    ("kind", "kind"),
    ("owner", "owner_id"),
    ("grant", lambda item: item["grant_id"] or "-"),
    ("operation", lambda item: item["operation_id"] or "-"),
    ("stored", lambda item: moment(item["stored_at"])),
    ("expires", lambda item: moment(item["expires_at"])),
    ("held", lambda item: f"by {item['hold']['by']}: {item['hold']['reason']}" if item["hold"] else "-"),
]
_EVENTS: list[Column] = [
    ("TIME", lambda item: moment(item["recorded_at"])),
    ("WHAT", "type"),
    ("BY", "actor"),
]


def artifact_id(cli: Remote, name: str) -> str:
    """Return the id of an artifact, found by id, by name, or the last one."""
    return str(_found(cli, name)["artifact_id"])


def _found(cli: Remote, name: str) -> Json:
    """Find an artifact by id, by name, or the last one; not by :class:`Finder`, to which versions of a file are one."""
    if is_id(name):
        found: Json = cli.client.get(f"{ARTIFACTS}/{name}")
        return found
    wanted: dict[str, Any] = {} if name == "last" else {"name": name}
    for item in cli.client.pages(ARTIFACTS, limit=1, **wanted):
        return item
    raise Failure(f"There is no artifact {name}. See: retinue artifacts list", ExitCode.NOT_FOUND)


@artifacts.command("list")
@remote
def list_(
    cli: Remote,
    operation: Annotated[
        str | None, typer.Option("--operation", help="Those this operation left: its id, the end of one, or last.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="upload or output.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Those of exactly this name.")] = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only your own; an admin sees those of others, too.")] = False,
    limit: Limit = 50,
) -> None:
    """List artifacts, the newest first."""
    left_by = None if operation is None else Finder(cli.client).operation(operation)
    chosen = {"operation_id": left_by, "kind": kind, "name": name}
    items = cli.client.pages(ARTIFACTS, limit=limit, mine=mine or None, **chosen)
    none = "No artifacts. Store one: retinue artifacts put FILE"
    cli.show_all(items, COLUMNS, empty="No such artifacts." if any(chosen.values()) else none)


@artifacts.command()
@remote
def show(cli: Remote, artifact: Artifact) -> None:
    """Show what is known of an artifact."""
    cli.show(_found(cli, artifact), _FIELDS)


@artifacts.command()
@remote
def versions(cli: Remote, artifact: Artifact, limit: Limit = 50) -> None:
    """List the versions of a file, the newest first."""
    items = cli.client.pages(f"{ARTIFACTS}/{artifact_id(cli, artifact)}/versions", limit=limit)
    cli.show_all(items, COLUMNS, empty="No versions.")


@artifacts.command()
@remote
def history(cli: Remote, artifact: Artifact, limit: Limit = 0) -> None:
    """List who stored an artifact, opened it and held it, oldest first."""
    items = cli.client.pages(f"{ARTIFACTS}/{artifact_id(cli, artifact)}/events", limit=limit)
    cli.show_all(items, _EVENTS, empty="Nothing happened.")


# Up and down


@artifacts.command()
@remote
def put(
    cli: Remote,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)],
    name: Annotated[str | None, typer.Option("--name", help="What it is called; by default as the file.")] = None,
    version_of: Annotated[
        str | None,
        typer.Option("--version-of", help="The name of the upload it is the next version of; by default its own."),
    ] = None,
    retention: Annotated[int | None, typer.Option("--retention", min=1, help="Seconds it is kept.")] = None,
) -> None:
    """Store a file. A large one goes in pieces, and goes on where it was after an interruption of the server."""
    item = store(cli, file, {"name": name or file.name, "version_of": version_of, "retention_seconds": retention})
    cli.done(f"Stored {item['name']}, version {item['number']}, {item['size']:,} bytes ({item['artifact_id']}).", item)


def store(cli: Remote, file: Path, given: dict[str, object]) -> Json:
    """Send a file, in pieces if it is large, and return what is known of the artifact that it became."""
    with file.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        if size <= _SMALL:
            sent = cli.client.request("POST", ARTIFACTS, content=source.read(), params=given, timeout=300)
            found: Json = sent.json()
            return found
        return _upload(cli, source, size, given)


def _upload(cli: Remote, source: BinaryIO, size: int, given: dict[str, object]) -> Json:
    metadata = {"filename": given["name"], **{key: value for key, value in given.items() if key != "name"}}
    encoded = ",".join(
        f"{key} {base64.b64encode(str(value).encode()).decode()}"
        for key, value in metadata.items()
        if value is not None
    )
    headers = {**_TUS, "Upload-Length": str(size), "Upload-Metadata": encoded}
    place = cli.client.request("POST", UPLOADS, headers=headers).headers["Location"]
    offset = 0
    with cli.screen.working("uploading"):
        while offset < size:
            source.seek(offset)
            offset = _send(cli, place, offset, source.read(_PIECE))
        return _stored(cli, place)


def _send(cli: Remote, place: str, offset: int, piece: bytes) -> int:
    """Send a piece and return where the upload is then; a piece that came although its answer was lost is no error."""
    headers = {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
    try:
        answer = cli.client.request("PATCH", place, content=piece, headers=headers, timeout=300)
    except Refusal as refusal:
        if refusal.kind != "conflict":
            raise
        answer = cli.client.request("HEAD", place, headers=_TUS)
        if int(answer.headers["Upload-Offset"]) <= offset:
            raise
    return int(answer.headers["Upload-Offset"])


def _stored(cli: Remote, place: str) -> Json:
    import time

    while True:
        upload = cli.client.get(place)
        if upload["state"] == "stored":
            found: Json = cli.client.get(f"{ARTIFACTS}/{upload['artifact_id']}")
            return found
        if upload["state"] == "refused":
            raise Failure(f"The file was refused: {upload['problem']}")
        time.sleep(0.2)


@artifacts.command()
@remote
def get(
    cli: Remote,
    artifact: Artifact,
    output: Output = None,
    sealed: Annotated[bool, typer.Option("--sealed", help="As it is stored, for a recipient to open.")] = False,
) -> None:
    """Read an artifact: decrypted, or with --sealed as a sealed file. It is never written under its own name."""
    if cli.as_json and output is None:
        raise Failure("Name a file with --output: the content itself is not JSON.", ExitCode.USAGE)
    item = _found(cli, artifact)
    path = f"{ARTIFACTS}/{item['artifact_id']}/{'sealed' if sealed else 'content'}"
    if output is None:
        download(cli, path, sys.stdout.buffer, resumable=not sealed)
        return
    if not output.parent.is_dir():
        raise Failure(f"{output} cannot be written: there is no folder {output.parent}.", ExitCode.USAGE)
    part = output.with_name(f"{output.name}.part")
    with part.open("wb") as out:
        count = download(cli, path, out, resumable=not sealed)
    if not sealed and count != item["size"]:
        raise Failure(f"Only {count:,} of {item['size']:,} bytes came; they are in {part}.", ExitCode.UNAVAILABLE)
    part.replace(output)
    cli.done(f"Wrote {count:,} bytes to {output}.", {"file": str(output), "bytes": count})


def download(cli: Remote, path: str, out: BinaryIO, *, resumable: bool) -> int:
    """Write what the server sends; where it breaks off, ask for the rest of the same version."""
    import httpx

    count, tag = 0, ""
    for attempt in range(_TRIES):
        headers = {"Range": f"bytes={count}-", "If-Range": tag} if count else {}
        try:
            with cli.client.streaming(path, {}, headers) as response:
                if count and response.status_code != 206:
                    raise Failure("The artifact changed while it was read. Try again.")
                tag = response.headers.get("ETag", "")
                for piece in response.iter_bytes():
                    out.write(piece)
                    count += len(piece)
            out.flush()
            return count
        except httpx.TransportError as error:
            if not resumable or attempt == _TRIES - 1:
                raise Failure(f"The connection broke after {count:,} bytes.", ExitCode.UNAVAILABLE) from error
    return count


# Sealed files


@artifacts.command("open")
def open_(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A sealed file.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The key it is sealed to: see `grants keygen`.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write; it must not be there.")
    ],
    as_json: AsJson = False,
) -> None:
    """Open a sealed file with a key. It asks no server, and leaves nothing unless all of it is authentic."""
    from retinue_client import GranteeKey, SealBroken, open_sealed

    try:
        loaded = GranteeKey.load(key)
    except OSError as error:
        raise Failure(f"The key {key} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
    except ValueError:
        text = f"{key} is no application's secret key: give the file that `retinue grants keygen` made."
        raise Failure(text, ExitCode.USAGE) from None
    try:
        header = open_sealed(file, loaded, output)
    except FileExistsError:
        raise Failure(f"{output} is there already.", ExitCode.USAGE) from None
    except OSError as error:
        raise Failure(f"{error.filename or output}: {error.strerror}.", ExitCode.USAGE) from None
    except SealBroken as error:
        raise Failure(f"{file} does not open: {error}.") from None
    screen = Screen(as_json)
    if as_json:
        screen.document({"file": str(output), "name": header.name, "bytes": header.size, "sha256": header.sha256})
    else:
        screen.line(f"Opened {header.name}: {header.size:,} bytes in {output}.")


# The end


@artifacts.command()
@remote
def delete(cli: Remote, artifact: Artifact) -> None:
    """Destroy an artifact: its key at once, its stored bytes right after. It cannot be had again."""
    found = _found(cli, artifact)
    cli.client.delete(f"{ARTIFACTS}/{found['artifact_id']}")
    cli.done(f"Deleted {found['name']}, version {found['number']} ({found['artifact_id']}).")


@artifacts.command()
@remote
def hold(
    cli: Remote,
    artifact: Artifact,
    reason: Annotated[str, typer.Option("--reason", help="Why it is kept.")] = "",
) -> None:
    """Place an artifact under legal hold: nobody deletes it, and it does not expire."""
    item = cli.client.put(f"{ARTIFACTS}/{artifact_id(cli, artifact)}/hold", {"reason": reason})
    cli.done(f"{item['name']} is held.", item)


@artifacts.command()
@remote
def release(cli: Remote, artifact: Artifact) -> None:
    """End a legal hold."""
    found = _found(cli, artifact)
    cli.client.delete(f"{ARTIFACTS}/{found['artifact_id']}/hold")
    cli.done(f"{found['name']} is no longer held.")
