"""`retinue workflows`: work that is written down, in YAML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue.cli.callbacks import callbacks
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.plans import COLUMNS as RUN_COLUMNS
from retinue.cli.plans import Yes, follow_plan
from retinue.cli.remote import AsJson, Limit, Remote, remote
from retinue.cli.screen import Column, Json, Screen, compact, moment

if TYPE_CHECKING:
    from retinue.workflows import Known, Source, WorkflowMistake

workflows = typer.Typer(
    name="workflows", help="Check, apply, draw and run workflows written in YAML.", no_args_is_help=True
)

workflows.add_typer(callbacks)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The workflow's name.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files, or folders of .yaml and .yml files.")]

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("VERSION", "version"),
    ("DESCRIPTION", lambda item: compact(item.get("description") or "-", 60)),
    ("CHANGED", lambda item: moment(item.get("changed_at"))),
]
FIELDS: list[Column] = [
    ("name", "name"),
    ("version", "version"),
    ("description", lambda item: item.get("description") or "-"),
    ("inputs", lambda item: compact(item["definition"].get("inputs") or {}, 300)),
    ("triggers", lambda item: "\n".join(_trigger(one) for one in item["triggers"]) or "-"),
    ("changed", lambda item: moment(item.get("changed_at"))),
    ("yaml", lambda item: item.get("yaml") or json.dumps(item["definition"], indent=2)),
]
VERSIONS: list[Column] = [
    ("VERSION", "version"),
    ("SINCE", lambda item: moment(item["created_at"])),
    ("APPLIED BY", "applied_by"),
    ("STEPS", lambda item: str(len(item["definition"].get("steps") or []))),
]


@workflows.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List workflows."""
    items = cli.client.pages("/v1/workflows", limit=limit)
    cli.show_all(items, COLUMNS, empty="No workflows yet. Apply some: retinue workflows apply DIR")


@workflows.command()
@remote
def show(cli: Remote, name: Name) -> None:
    """Show one workflow, with its triggers."""
    cli.show(cli.client.get(f"/v1/workflows/{name}"), FIELDS)


@workflows.command()
@remote
def versions(cli: Remote, name: Name, limit: Limit = 50) -> None:
    """List a workflow's versions, the newest first."""
    cli.show_all(cli.client.pages(f"/v1/workflows/{name}/versions", limit=limit), VERSIONS, empty="There are none.")


@workflows.command()
def validate(paths: Paths, every_json: AsJson = False) -> None:
    """Say everything that is wrong in files, with line and path. It needs no server; give all files that belong."""
    screen = Screen(every_json)
    sources = _read(paths)
    found = _mistakes(sources)
    if every_json:
        screen.document({"valid": not found, "mistakes": [_as_json(one) for one in found]})
    for one in () if every_json else found:
        screen.line(str(one))
    if found:
        raise Failure(f"{_count(len(found), 'mistake')} in {_count(len(sources), 'file')}.")
    if not every_json:
        screen.line(f"{_count(len(sources), 'workflow')}: nothing is wrong.")


@workflows.command()
def graph(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The workflow; others of its folder may be called.")],
    format: Annotated[str, typer.Option("--format", "-f", help="mermaid or dot.")] = "mermaid",
    every_json: AsJson = False,
) -> None:
    """Print the graph of a workflow in a file, as Mermaid or for Graphviz. It needs no server."""
    from retinue.kernel import Fault
    from retinue.workflows import compile_workflow, dot, mermaid

    if format not in ("mermaid", "dot"):
        raise Failure("--format is mermaid or dot.", ExitCode.USAGE)
    source = _read([file])[0]
    try:
        plan = compile_workflow(source, _known(_read([file.parent])).get).plan
    except Fault as fault:
        raise Failure(fault.detail) from None
    text = mermaid(plan) if format == "mermaid" else dot(plan)
    if every_json:
        Screen(True).document({"format": format, "graph": text})
    else:
        typer.echo(text, nl=False)


@workflows.command()
@remote
def apply(cli: Remote, paths: Paths) -> None:
    """Make workflows of files, or give them their next version. Nothing is sent while anything is wrong."""
    sources = _read(paths)
    known = {one["name"]: one for one in cli.client.pages("/v1/workflows", limit=0)}
    found = [one for one in _mistakes(sources) if not _is_elsewhere(one, known)]
    for one in found:
        cli.screen.note(str(one), style="red")
    if found:
        raise Failure(f"{_count(len(found), 'mistake')}; nothing was applied.")
    done: list[Json] = []
    for source in _called_first(sources):
        assert source.workflow is not None
        name = source.workflow.name
        answer = cli.client.request(
            "PUT", f"/v1/workflows/{name}", content=source.text.encode(), headers={"Content-Type": "text/yaml"}
        ).json()
        done.append(answer)
        before = known.get(name)
        what = "made" if before is None else "unchanged" if before["version"] == answer["version"] else "changed"
        cli.screen.line(f"{name}: {what}, version {answer['version']}")
        _tell_secrets(cli, answer)
    _tell_missing_agents(cli, [one["name"] for one in done])
    if cli.as_json:
        cli.screen.document({"items": done})


@workflows.command()
@remote
def run(
    cli: Remote,
    name: Name,
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="KEY=VALUE", help="An input; JSON, or else text.")
    ] = None,
    inputs: Annotated[Path | None, typer.Option("--inputs", help="A JSON file with inputs.", exists=True)] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Work on the files of this session.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Put a file into the session first; may be repeated.", exists=True),
    ] = None,
    callback: Annotated[str | None, typer.Option("--callback", help="A URL that is told of the end.")] = None,
    yes: Yes = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait for its end.")] = False,
) -> None:
    """Run a workflow and follow it live; what it asks is asked here. Exit code 6 when it does not succeed."""
    body: Json = {"inputs": _inputs(input or [], inputs)}
    if session or file:
        body["session_id"] = _session(cli, session, file or [], yes)
    if callback:
        body["callback"] = callback
    plan = cli.client.post(f"/v1/workflows/{name}/runs", body)
    if detach:
        cli.done(f"Run {plan['plan_id']} is {plan['status']}. Follow it: retinue plans watch last", plan)
        return
    follow_plan(cli, str(plan["plan_id"]), yes=yes)


def _session(cli: Remote, session: str | None, files: Sequence[Path], yes: bool) -> str:
    """Return the id of a session, a new one unless it is named, with files put into its workspace."""
    from retinue.cli.conversation import Conversation
    from retinue.cli.deciding import decider

    talk = Conversation(cli, None, decider(cli.screen, yes=yes), session=session)
    for path in files:
        item = talk.upload(path)
        cli.screen.note(f"  · {item['path']} ({item['size']} bytes) is in the workspace", style="dim")
    return talk.session_id


@workflows.command()
@remote
def runs(cli: Remote, name: Name, limit: Limit = 50) -> None:
    """List the runs of a workflow, the newest first."""
    cli.show_all(cli.client.pages(f"/v1/workflows/{name}/runs", limit=limit), RUN_COLUMNS, empty="It has not run yet.")


@workflows.command()
@remote
def delete(cli: Remote, name: Name) -> None:
    """Delete a workflow and its triggers. Runs that are under way go on."""
    cli.client.delete(f"/v1/workflows/{name}")
    cli.done(f"Deleted {name}.")


# Files


def _read(paths: Iterable[Path]) -> list[Source]:
    from retinue.kernel import Fault
    from retinue.workflows import read_text

    found: list[Source] = []
    for file in _files(paths):
        try:
            found.append(read_text(file.read_bytes(), str(file)))
        except OSError as error:
            raise Failure(f"{file} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
        except Fault as fault:
            raise Failure(f"{file}: {fault.detail}") from None
    return found


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml") and one.is_file())
        else:
            found.append(path)
    if not found:
        raise Failure("There are no .yaml files.", ExitCode.USAGE)
    return found


def _known(sources: Sequence[Source]) -> dict[str, Known]:
    from retinue.workflows import Known

    return {one.workflow.name: Known(one.workflow) for one in sources if one.workflow is not None}


def _mistakes(sources: Sequence[Source]) -> list[WorkflowMistake]:
    from retinue.workflows import mistakes_in

    known = _known(sources)
    found = [mistake for source in sources for mistake in mistakes_in(source, known.get)]
    seen: dict[str, Source] = {}
    for source in sources:
        if source.workflow is None:
            continue
        if (first := seen.get(source.workflow.name)) is not None:
            found.append(source.mistake(("name",), f"{first.file} has a workflow of that name, too."))
        seen.setdefault(source.workflow.name, source)
    return found


def _is_elsewhere(mistake: WorkflowMistake, known: Iterable[str]) -> bool:
    """Whether a workflow that no file holds is known to the server: it has the last word."""
    return any(mistake.message == f"There is no workflow {name!r}." for name in known)


def _called_first(sources: Sequence[Source]) -> list[Source]:
    """Put workflows in an order in which those that others call come first."""
    import graphlib

    by_name = {one.workflow.name: one for one in sources if one.workflow is not None}
    calls = {name: _called(one.content) & set(by_name) for name, one in by_name.items()}
    return [by_name[name] for name in graphlib.TopologicalSorter(calls).static_order()]


def _called(content: Any) -> set[str]:
    if isinstance(content, dict):
        own = {content["workflow"]} if isinstance(content.get("workflow"), str) else set()
        return own.union(*(_called(one) for one in content.values()))
    return set().union(*(_called(one) for one in content)) if isinstance(content, list) else set()


# What is shown


def _inputs(given: Iterable[str], file: Path | None) -> Json:
    found: Json = {}
    if file is not None:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise Failure(f"{file} is no JSON.", ExitCode.USAGE) from None
        if not isinstance(found, dict):
            raise Failure(f"{file} holds no JSON object.", ExitCode.USAGE)
    for one in given:
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise Failure(f"--input {one!r}: write KEY=VALUE.", ExitCode.USAGE)
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _tell_secrets(cli: Remote, answer: Json) -> None:
    urls = {one["id"]: one["url"] for one in answer["triggers"]}
    for trigger, secret in answer["secrets"].items():
        cli.screen.note(f"  webhook {trigger}: {cli.client.server}{urls[trigger]}", style="bold")
        cli.screen.note(f"  its secret, shown this once: {secret}", style="bold")


def _tell_missing_agents(cli: Remote, names: Iterable[str]) -> None:
    """Say which agents of the workflows the caller does not have; a key that may not look is told nothing."""
    from retinue.planning import same_name

    try:
        own = {same_name(one["name"]) for one in cli.client.pages("/v1/my/agents", limit=0)}
        for name in names:
            nodes = cli.client.get(f"/v1/workflows/{name}/graph")["nodes"]
            for agent in sorted({node["agent"] for node in nodes if node["agent"]}):
                if same_name(agent) not in own:
                    cli.screen.note(f"  {name} needs an agent called {agent}; you have none.", style="yellow")
    except Failure as failure:
        if failure.code is not ExitCode.REFUSED:
            raise


def _trigger(one: Json) -> str:
    when = {"cron": f"next at {moment(one['next_at'])}", "webhook": str(one["url"]), "event": f"on {one['event']}"}
    error = f" (failed last: {one['last_error']})" if one.get("last_error") else ""
    return f"{one['id']}: {one['kind']}, {when[one['kind']]}{error}"


def _as_json(one: WorkflowMistake) -> Json:
    return {"file": one.file, "line": one.line, "path": one.path, "message": one.message}


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
