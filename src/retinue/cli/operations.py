"""`retinue operations`: headless agents and programs at work on files in a sandbox."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue.cli.artifacts import artifact_id, download, store
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.operations_install import install
from retinue.cli.operations_policy import policy
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, compact, duration, moment, plain, seconds_between

operations = typer.Typer(
    name="operations", help="Have headless agents and programs work on files in a sandbox.", no_args_is_help=True
)
operations.command()(install)
operations.add_typer(policy)

PATH = "/v1/operations"
_ENDED = {"completed", "failed", "cancelled", "timed_out"}
_SHORT = 12

OperationName = Annotated[str, typer.Argument(metavar="OPERATION", help="Id, the end of one, or last.")]

COLUMNS: list[Column] = [
    ("OPERATION", lambda item: str(item["operation_id"])[-_SHORT:]),
    ("STATUS", lambda item: _status(item)),
    ("DRIVER", "driver"),
    ("BY", lambda item: item["application"] or "-"),
    ("LEVEL", lambda item: item["isolation"] or "-"),
    ("COST", lambda item: f"${item['cost']}"),
    ("CREATED", lambda item: moment(item["created_at"])),
    ("TOOK", lambda item: _took(item)),
]
FIELDS: list[Column] = [
    ("operation", "operation_id"),
    ("status", lambda item: _status(item)),
    ("goal", lambda item: compact(item["goal"], 200)),
    ("driver", "driver"),
    ("model", lambda item: item["model"] or "-"),
    ("summary", lambda item: compact(item["summary"] or item["detail"], 400) or "-"),
    ("asked by", lambda item: item["application"] or "you, or an agent of yours"),
    ("isolation", lambda item: f"level {item['isolation']} ({item['sandbox']})" if item["isolation"] else "-"),
    ("attempt", "attempt"),
    ("limits", lambda item: _limits(item["limits"])),
    ("used", lambda item: _used(item["usage"])),
    ("cost", lambda item: f"${item['cost']}"),
    ("run", "run_id"),
    ("created", lambda item: moment(item["created_at"])),
    ("took", lambda item: _took(item)),
]
_ARTIFACTS: list[Column] = [
    ("NAME", lambda item: compact(item["name"], 60)),
    ("SIZE", lambda item: f"{item['size']:,}"),
    ("TYPE", "media_type"),
    ("EXPIRES", lambda item: moment(item["expires_at"])),
    ("ID", "artifact_id"),
]
_EVENTS: list[Column] = [
    ("VERSION", "version"),
    ("EVENT", "type"),
    ("RECORDED", lambda event: moment(event.get("recorded_at"))),
    ("DATA", lambda event: compact(event["data"], 100)),
]


@operations.command()
@remote
def run(
    cli: Remote,
    driver: Annotated[str, typer.Argument(metavar="DRIVER", help="Such as qwen, gemini or command.")],
    goal: Annotated[str, typer.Argument(metavar="GOAL", help="What is to be done.")],
    argv: Annotated[
        list[str] | None, typer.Argument(metavar="[-- PROGRAM ARG...]", help="For the driver command: what is run.")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="A file to work on; repeat it for more.", exists=True, dir_okay=False),
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="An artifact to work on: name or id, or last; repeat it for more."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Such as openai:gpt-5-mini; the tenant's without it.")
    ] = None,
    parameters: Annotated[str | None, typer.Option("--parameters", help="The driver's own, as JSON.")] = None,
    expect: Annotated[
        list[str] | None, typer.Option("--expect", help="A name or pattern of a file that it must leave.")
    ] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.1, help="How long it may take.")] = None,
    budget: Annotated[str | None, typer.Option("--budget", help="US dollars that its model calls may cost.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder to write what it left into.", file_okay=False)
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for its end.")] = False,
) -> None:
    """Have an agent or a program work on files, and follow it to its end. Exit code 6 when it does not succeed."""
    if driver == "command" and not argv and parameters is None:
        raise Failure(
            "Name the program after two hyphens: retinue operations run command GOAL -- PROGRAM ARG...", ExitCode.USAGE
        )
    given = [{"artifact_id": artifact_id(cli, one)} for one in artifact or ()]
    for one in file or ():
        given.append({"artifact_id": store(cli, one, {"name": one.name})["artifact_id"]})
    body = {
        "driver": driver,
        "goal": goal,
        "parameters": _parameters(parameters, argv or []),
        "model": model,
        "inputs": given,
        "expected": [{"name": one} for one in expect or ()],
        "limits": {} if seconds is None else {"seconds": seconds},
        "budget": budget,
    }
    made = cli.client.post(PATH, body)
    if detach:
        cli.done(f"Begun: {made['operation_id']}. Follow it: retinue operations watch last", made)
        return
    found = _follow(cli, str(made["operation_id"]))
    _conclude(cli, found, output)


def _parameters(text: str | None, argv: list[str]) -> dict[str, Any]:
    found: Any = {}
    if text is not None:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Failure(f"--parameters is no JSON: {error}", ExitCode.USAGE) from None
        if not isinstance(found, dict):
            raise Failure("--parameters is a JSON object.", ExitCode.USAGE)
    return {**found, "argv": argv} if argv else found


@operations.command("list")
@remote
def list_(
    cli: Remote,
    status: Annotated[
        str | None, typer.Option("--status", help="queued, running, completed, failed, cancelled or timed_out.")
    ] = None,
    driver: Annotated[str | None, typer.Option("--driver", help="Only of this driver.")] = None,
    grant: Annotated[
        str | None, typer.Option("--grant", help="Only those of a grant: application or id, or last.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--everybody", help="All of the tenant's, for an admin.")] = False,
    limit: Limit = 50,
) -> None:
    """List operations, the newest first."""
    granted = None if grant is None else Finder(cli.client).grant(grant)
    chosen = {"status": status, "driver": driver, "grant": granted}
    items = cli.client.pages(PATH, limit=limit, everybody=everybody or None, **chosen)
    none = "No operations yet. Begin one: retinue operations run DRIVER GOAL"
    cli.show_all(items, COLUMNS, empty="No such operations." if any(chosen.values()) else none)


@operations.command()
@remote
def show(cli: Remote, operation: OperationName) -> None:
    """Show an operation: state, limits, isolation, usage, bill, and what it left."""
    item = _get(cli, operation)
    cli.show(item, FIELDS)
    if not cli.as_json:
        _list_outputs(cli, item)


@operations.command()
@remote
def watch(cli: Remote, operation: OperationName) -> None:
    """Follow an operation, with what its agent writes. Exit code 6 when it does not succeed."""
    _conclude(cli, _follow(cli, Finder(cli.client).operation(operation)))


@operations.command()
@remote
def cancel(
    cli: Remote,
    operation: OperationName,
    reason: Annotated[str, typer.Option("--reason", help="Why.")] = "",
) -> None:
    """End an operation: its sandbox is dead within a second, and nothing that it left is kept."""
    path = f"{PATH}/{Finder(cli.client).operation(operation)}/cancel"
    item = cli.client.post(path, {"reason": reason})
    cli.done(f"{item['operation_id']} is being cancelled.", item)


@operations.command()
@remote
def retry(cli: Remote, operation: OperationName) -> None:
    """Begin an operation anew that did not succeed."""
    item = cli.client.post(f"{PATH}/{Finder(cli.client).operation(operation)}/retry")
    cli.done(f"{item['operation_id']} begins anew. Follow it: retinue operations watch {item['operation_id']}", item)


@operations.command()
@remote
def events(cli: Remote, operation: OperationName, limit: Limit = 0) -> None:
    """List everything that happened to an operation."""
    path = f"{PATH}/{Finder(cli.client).operation(operation)}/events"
    cli.show_all(cli.client.pages(path, limit=limit), _EVENTS, empty="Nothing has happened yet.")


@operations.command()
@remote
def artifacts(
    cli: Remote,
    operation: OperationName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder to write them into.", file_okay=False)
    ] = None,
) -> None:
    """List what an operation left; with --output fetch it, too."""
    item = _get(cli, operation)
    if output is not None:
        _save(cli, item, output)
    cli.show_all(item["artifacts"], _ARTIFACTS, empty="It left nothing that is kept.")


# Following and fetching


def _get(cli: Remote, operation: str) -> Json:
    found: Json = cli.client.get(f"{PATH}/{Finder(cli.client).operation(operation)}")
    return found


def _follow(cli: Remote, operation_id: str) -> Json:
    """Show what an operation's agent writes until it has ended; return it."""
    from retinue.cli.stream import live_events

    path = f"{PATH}/{operation_id}"
    attempt, shown = 0, 0
    for event in live_events(cli.client, path=f"{path}/stream", after="0"):
        if event is None or event.name == "task_completed":
            found: Json = cli.client.get(path)
            if found["status"] in _ENDED:
                return found
        elif event.name == "message_delta" and not cli.as_json:
            # Who joins late gets the text so far, and may get its last piece once more.
            text = str(event.payload.get("text", ""))
            now, offset = int(event.payload.get("attempt") or 1), int(event.payload.get("offset") or 0)
            shown = shown if now == attempt else 0
            sys.stdout.write(plain(text[max(0, shown - offset) :]))
            sys.stdout.flush()
            attempt, shown = now, max(shown, offset + len(text))
        elif event.name == "task_started":
            cli.screen.note(f"attempt {event.payload.get('attempt')}, isolation level {event.payload.get('level')}")
    raise Failure("The stream ended before the operation.", ExitCode.UNAVAILABLE)


def _conclude(cli: Remote, item: Json, folder: Path | None = None) -> None:
    """Show how an operation ended, fetch what it left into ``folder``, and fail when it did not succeed."""
    if cli.as_json:
        cli.screen.document(item)
    else:
        after = f" after {_took(item)}" if item["started_at"] else ""
        cli.screen.line(f"\n{_status(item)}{after}, ${item['cost']}. {compact(item['detail'], 400)}".rstrip())
        _list_outputs(cli, item)
    if folder is not None and item["artifacts"]:
        _save(cli, item, folder)
    if item["status"] != "completed":
        raise Failure(f"The operation did not succeed: {item['kind'] or item['status']}.", ExitCode.RUN_FAILED)


def _list_outputs(cli: Remote, item: Json) -> None:
    if item["artifacts"]:
        cli.screen.line()
        cli.screen.table(_ARTIFACTS, item["artifacts"], empty="")
    for one in item["skipped"]:
        cli.screen.note(f"left out: {one['name']}: {one['why']}")


def _save(cli: Remote, item: Json, folder: Path) -> None:
    """Write what an operation left into a folder. Names come from a program that nobody trusts."""
    folder.mkdir(parents=True, exist_ok=True)
    top = folder.resolve()
    for one in item["artifacts"]:
        place = (top / one["name"]).resolve()
        if not place.is_relative_to(top) or place == top:
            raise Failure(f"Not written, since it leads out of {folder}: {compact(one['name'], 100)}")
        if place.exists():
            raise Failure(
                f"{place} is there already. What the operation left is kept: move the file away, then fetch it with "
                f"retinue operations artifacts {item['operation_id']} --output {folder}"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        path = f"/v1/artifacts/{one['artifact_id']}/content"
        with place.open("xb") as out:
            download(cli, path, out, resumable=True)
    cli.screen.note(f"Wrote {_count(len(item['artifacts']), 'file')} to {folder}/.")


def _count(number: float, what: str) -> str:
    return f"{number:,g} {what}" if number == 1 else f"{number:,g} {what}s"


def _status(item: Json) -> str:
    if item["cancelling"]:
        return "cancelling"
    phase = f" ({item['phase']})" if item["phase"] else ""
    kind = f" ({item['kind']})" if item["kind"] and item["status"] == "failed" else ""
    return f"{item['status']}{phase}{kind}"


def _took(item: Json) -> str:
    if not item["started_at"]:
        return "-"
    return duration(seconds_between(item["started_at"], item["ended_at"]))


def _limits(limits: Json) -> str:
    return (
        f"{limits['seconds']:g} s, {limits['memory'] / 1e6:,.0f} MB memory, {limits['disk'] / 1e6:,.0f} MB disk, "
        f"{limits['processes']} processes, {_count(limits['cores'], 'core')}"
    )


def _used(usage: Json | None) -> str:
    if usage is None:
        return "-"
    text = (
        f"{duration(usage['seconds'])}, {duration(usage['cpu_seconds'])} of CPU, "
        f"{usage['peak_memory'] / 1e6:,.0f} MB memory"
    )
    return text + (f", {_count(usage['model_calls'], 'model call')}" if usage["model_calls"] else "")
