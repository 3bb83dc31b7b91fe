"""`retinue board`: the work items of people and agents."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.board_files import operations
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.saving import Output, save_csv
from retinue.cli.screen import Column, Json, compact, moment
from retinue.cli.teams import tenant_of

if TYPE_CHECKING:
    from retinue.cli.stream import LiveEvent

board = typer.Typer(name="board", help="Work items of people and agents.", no_args_is_help=True)

ITEMS = "/v1/board/items"
_MOST = 1000

COLUMNS: list[Column] = [
    ("TITLE", lambda item: compact(item["title"], 60)),
    ("STATE", "state"),
    ("PRIORITY", "priority"),
    ("LABELS", "labels"),
    ("DUE", lambda item: moment(item.get("due"))),
    ("ASSIGNEE", "assignee"),
    ("ITEM", "item_id"),
]
FIELDS: list[Column] = [
    ("title", "title"),
    ("item", "item_id"),
    ("version", "version"),
    ("state", "state"),
    ("priority", "priority"),
    ("labels", "labels"),
    ("due", lambda item: moment(item.get("due"))),
    ("team", "team"),
    ("assignee", "assignee"),
    ("part of", "parent"),
    ("run", lambda item: f"{item['run_id']} ({item['run_status']})" if item.get("run_id") else "-"),
    ("proposed", lambda item: _proposed(item.get("proposal"))),
    (
        "links",
        lambda item: "\n".join(f"{one['kind']} {one['target']} {one['title']}" for one in item.get("links") or []),
    ),
    ("comments", lambda item: str(item.get("comments") or "-")),
    ("created", lambda item: f"{moment(item.get('created_at'))} by {item.get('created_by')}"),
    ("changed", lambda item: moment(item.get("changed_at"))),
    ("description", "description"),
]

ItemName = Annotated[str, typer.Argument(metavar="ITEM", help="Title, id, the end of one, or last.")]
Description = Annotated[str | None, typer.Option("--description", "-d", help="What is to be done; @FILE reads a file.")]
State = Annotated[str | None, typer.Option("--state", help="open, in_progress, blocked, review, done or cancelled.")]
Priority = Annotated[str | None, typer.Option("--priority", help="low, normal, high or urgent.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="May be repeated.")]
Due = Annotated[str | None, typer.Option("--due", help="A time with its zone, such as 2026-01-31T17:00:00Z; none.")]
Team = Annotated[str | None, typer.Option("--team", help="Name or id of a team; none for everybody's.")]
PartOf = Annotated[str | None, typer.Option("--parent", help="The item it is a part of; none.")]
Text = Annotated[str | None, typer.Option("--search", help="Words, or, -without; in one pair of quotes.")]


@board.command("list")
@remote
def list_(
    cli: Remote,
    state: Annotated[list[str] | None, typer.Option("--state", help="May be repeated.")] = None,
    label: Labels = None,
    priority: Priority = None,
    team: Team = None,
    mine: Annotated[bool, typer.Option("--mine", help="Only those assigned to you.")] = False,
    due_before: Annotated[str | None, typer.Option("--due-before", help="A time with its zone.")] = None,
    parent: PartOf = None,
    search: Text = None,
    deleted: Annotated[bool, typer.Option("--deleted", help="Deleted ones instead.")] = False,
    limit: Limit = 50,
) -> None:
    """List items, the newest first."""
    params = _conditions(cli, state, label, priority, team, mine, due_before, parent, search, deleted)
    items = cli.client.pages(ITEMS, limit=limit, **params)
    cli.show_all(items, COLUMNS, empty="No such items. Add one: retinue board add TITLE")


@board.command()
@remote
def add(
    cli: Remote,
    title: Annotated[str, typer.Argument(metavar="TITLE")],
    description: Description = None,
    state: State = None,
    priority: Priority = None,
    label: Labels = None,
    due: Due = None,
    team: Team = None,
    parent: PartOf = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Give it to this agent of yours.")] = None,
) -> None:
    """Put an item on the board."""
    body = {"title": title, **_given(cli, None, description, state, priority, label, due, team, parent)}
    if agent is not None:
        body["assignee"] = f"agent:{Finder(cli.client).agent(agent)}"
    item = cli.client.post(ITEMS, body)
    cli.done(f"Added {item['title']} ({item['item_id']}).", item)


@board.command()
@remote
def show(cli: Remote, item: ItemName) -> None:
    """Show an item with its newest comments."""
    path = _path(cli, item)
    found = cli.client.get(path)
    said = list(cli.client.pages(f"{path}/comments", limit=20)) if found["comments"] else []
    if cli.as_json:
        cli.screen.document({**found, "newest_comments": said})
        return
    cli.show(found, FIELDS)
    for one in reversed(said):
        cli.screen.line(f"\n{one['author']}, {moment(one['created_at'])}")
        cli.screen.line(one["text"])


@board.command("set")
@remote
def set_(
    cli: Remote,
    item: ItemName,
    title: Annotated[str | None, typer.Option("--title")] = None,
    description: Description = None,
    state: State = None,
    priority: Priority = None,
    label: Labels = None,
    due: Due = None,
    team: Team = None,
    parent: PartOf = None,
    version: Annotated[
        int | None, typer.Option("--version", help="What you looked at: others' changes since are not overwritten.")
    ] = None,
) -> None:
    """Change fields of an item."""
    body = _given(cli, title, description, state, priority, label, due, team, parent)
    if not body:
        raise Failure("Nothing to change: name a field, such as --state done.", ExitCode.USAGE)
    _changed(cli, item, body, version)


@board.command()
@remote
def assign(
    cli: Remote,
    item: ItemName,
    agent: Annotated[str | None, typer.Option("--agent", help="An agent of yours; it begins at once.")] = None,
    member: Annotated[str | None, typer.Option("--member", help="E-mail address, name or user id.")] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="Take it away; an agent's run is cancelled.")] = False,
) -> None:
    """Give an item to an agent or a member."""
    if (agent is not None) + (member is not None) + nobody != 1:
        raise Failure("Give it to one of --agent NAME, --member NAME or --nobody.", ExitCode.USAGE)
    assignee = None
    if agent is not None:
        assignee = f"agent:{Finder(cli.client).agent(agent)}"
    elif member is not None:
        assignee = f"user:{Finder(cli.client).member(tenant_of(cli), member)}"
    _changed(cli, item, {"assignee": assignee}, None)


@board.command()
@remote
def comment(cli: Remote, item: ItemName, text: Annotated[str, typer.Argument(metavar="TEXT")]) -> None:
    """Say something about an item."""
    cli.done("Said.", cli.client.post(f"{_path(cli, item)}/comments", {"text": text}))


@board.command()
@remote
def decide(
    cli: Remote,
    item: ItemName,
    accept: Annotated[bool, typer.Option("--accept/--reject", help="What you say to what an agent proposes.")],
) -> None:
    """Accept what an agent proposes, or do not."""
    found = cli.client.post(f"{_path(cli, item)}/proposal", {"accept": accept})
    cli.done("Accepted." if accept else "Rejected.", found)


@board.command()
@remote
def delete(cli: Remote, item: ItemName) -> None:
    """Delete an item; it can be undone and restored."""
    path = _path(cli, item)
    cli.client.delete(path)
    cli.done(f"Deleted. Bring it back: retinue board undo {path.rpartition('/')[2]}")


@board.command()
@remote
def undo(cli: Remote, item: ItemName) -> None:
    """Take back your own last change of an item."""
    found = cli.client.post(f"{_path(cli, item)}/undo")
    cli.done(f"Undone: {', '.join(found['fields'])}.", found)


@board.command()
@remote
def redo(cli: Remote, item: ItemName) -> None:
    """Do again what you have undone last."""
    found = cli.client.post(f"{_path(cli, item)}/redo")
    cli.done(f"Done again: {', '.join(found['fields'])}.", found)


@board.command()
@remote
def bulk(
    cli: Remote,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV as the export writes it, or JSON lines.")],
    each: Annotated[bool, typer.Option("--each", help="Do what can be done; otherwise all or nothing.")] = False,
) -> None:
    """Create, change and delete many items. Rows with an item_id change that item, others make one."""
    wanted = operations(file)
    if len(wanted) > _MOST and not each:
        raise Failure(f"All or nothing is possible for {_MOST:,} at once; use --each for more.", ExitCode.USAGE)
    results: list[Json] = []
    for start in range(0, len(wanted), _MOST):
        body = {"mode": "each" if each else "all", "operations": wanted[start : start + _MOST]}
        results += cli.client.post(f"{ITEMS}/bulk", body)["items"]
    failed = [(number, one) for number, one in enumerate(results, 1) if one["problem"]]
    if cli.as_json:
        cli.screen.document({"done": len(results) - len(failed), "failed": len(failed), "items": results})
    else:
        for number, one in failed:
            cli.screen.note(f"{number}: {one['problem']['detail']}", style="red")
        cli.screen.line(f"{len(results) - len(failed)} done, {len(failed)} failed.")
    if failed:
        raise typer.Exit(int(ExitCode.FAILED))


@board.command()
@remote
def export(
    cli: Remote,
    file: Output = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="May be repeated.")] = None,
    label: Labels = None,
    team: Team = None,
    search: Text = None,
) -> None:
    """Write items as CSV, with formulas made harmless."""
    params = _conditions(cli, state, label, None, team, False, None, None, search, False)
    save_csv(cli, "/v1/board/export", params, file)


@board.command()
@remote
def watch(cli: Remote) -> None:
    """Show what happens on the board, as it happens. With --json, one document a line. Ends with Ctrl-C."""
    from retinue.cli.stream import live_events

    for event in live_events(cli.client, types=",".join(_WATCHED)):
        if event is None:
            continue
        if cli.as_json:
            line = {"event": event.name, "position": event.position, **event.payload}
            sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            cli.screen.line(_told(event))


_WATCHED = (
    "item_created",
    "item_changed",
    "item_withdrawn",
    "item_commented",
    "item_deleted",
    "item_restored",
    "item_proposed",
    "item_run_started",
    "item_run_ended",
)


def _told(event: LiveEvent) -> str:
    payload, what = event.payload, event.name.removeprefix("item_").replace("_", " ")
    detail = ""
    if "fields" in payload:
        detail = payload["fields"].get("title", "")
    elif event.name == "item_changed":
        detail = ", ".join(f"{name}: {one['from']} -> {one['to']}" for name, one in payload["changes"].items())
    elif event.name == "item_proposed":
        detail = f"{payload['changes']}: {payload['reason']}"
    else:
        detail = str(payload.get("text") or payload.get("status") or "")
    return f"{payload['item_id']}  {what}  {compact(detail, 120)}".rstrip()


def _changed(cli: Remote, item: str, body: Json, version: int | None) -> None:
    headers = {"If-Match": f'"{version}"'} if version is not None else None
    found = cli.client.request("PATCH", _path(cli, item), body=body, headers=headers).json()
    merged = " Others' changes since are kept." if found.get("merged") else ""
    cli.done(f"{found['title']} is at version {found['version']} now.{merged}", found)


def _path(cli: Remote, item: str) -> str:
    return f"{ITEMS}/{Finder(cli.client).item(item)}"


def _proposed(proposal: Json | None) -> str:
    return f"{compact(proposal['changes'])}: {proposal['reason']}" if proposal else "-"


def _given(
    cli: Remote,
    title: str | None,
    description: str | None,
    state: str | None,
    priority: str | None,
    label: list[str] | None,
    due: str | None,
    team: str | None,
    parent: str | None,
) -> Json:
    """Return the fields that were given, in the API's shape; ``none`` empties a field."""
    found: dict[str, Any] = {"title": title, "state": state, "priority": priority}
    found["labels"] = label or None
    if description is not None:
        is_file = description.startswith("@") and len(description) > 1
        found["description"] = Path(description[1:]).read_text() if is_file else description
    body = {name: value for name, value in found.items() if value is not None}
    if due is not None:
        body["due"] = None if due == "none" else due
    if team is not None:
        body["team"] = None if team == "none" else Finder(cli.client).team(tenant_of(cli), team)
    if parent is not None:
        body["parent"] = None if parent == "none" else Finder(cli.client).item(parent)
    return body


def _conditions(
    cli: Remote,
    state: list[str] | None,
    label: list[str] | None,
    priority: str | None,
    team: str | None,
    mine: bool,
    due_before: str | None,
    parent: str | None,
    search: str | None,
    deleted: bool,
) -> dict[str, object]:
    finder = Finder(cli.client)
    found: dict[str, object | None] = {
        "state": state or None,
        "label": label or None,
        "priority": priority,
        "team": team if team in (None, "none") else finder.team(tenant_of(cli), team),
        "assignee": "me" if mine else None,
        "due_before": due_before,
        "parent": None if parent is None else finder.item(parent),
        "text": search,
        "deleted": "true" if deleted else None,
    }
    return {name: value for name, value in found.items() if value is not None}
