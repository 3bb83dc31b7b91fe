"""`retinue agents`: what your agents are."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, compact, moment

agents = typer.Typer(name="agents", help="Create, change and look at agents.", no_args_is_help=True)

COLUMNS: list[Column] = [
    ("NAME", "name"),
    ("STATUS", "status"),
    ("MODEL", lambda agent: agent.get("model") or "(the server's default)"),
    ("RUNNING", lambda agent: f"{agent.get('running', 0)}"),
    ("QUEUED", lambda agent: f"{agent.get('queued', 0)}"),
    ("VERSION", "version"),
    ("ID", "agent_id"),
]
FIELDS: list[Column] = [
    ("name", "name"),
    ("id", "agent_id"),
    ("status", "status"),
    ("version", "version"),
    ("description", "description"),
    ("model", lambda agent: agent.get("model") or "(the server's default)"),
    ("fallbacks", "fallbacks"),
    ("instructions", "instructions"),
    ("tools", "tools"),
    ("mcp", lambda agent: ", ".join(server.get("name", "?") for server in agent.get("mcp") or [])),
    ("autonomy", "autonomy"),
    ("tool policy", lambda agent: _pairs(agent.get("tool_policy"))),
    ("limits", lambda agent: _pairs(agent.get("limits"))),
    ("cache", lambda agent: f"{agent['cache_seconds']} s" if agent.get("cache_seconds") else "-"),
    ("output schema", lambda agent: compact(agent["output_schema"]) if agent.get("output_schema") else "-"),
    ("created", lambda agent: moment(agent.get("created_at"))),
    ("changed", lambda agent: moment(agent.get("changed_at"))),
]

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help="Name or id.")]
Instructions = Annotated[
    str | None, typer.Option("--instructions", "-i", help="What the agent is for; @FILE reads a file.")
]
Description = Annotated[
    str | None, typer.Option("--description", help="What it is good at, in a line, for those who hand work on.")
]
Model = Annotated[str | None, typer.Option("--model", help="PROVIDER:MODEL, such as openai:gpt-5-mini.")]
Fallbacks = Annotated[list[str] | None, typer.Option("--fallback", help="A model to try next; may be repeated.")]
Tools = Annotated[list[str] | None, typer.Option("--tool", help="A tool or tool set; may be repeated.")]
Mcp = Annotated[list[str] | None, typer.Option("--mcp", help="An MCP server as JSON or @FILE; may be repeated.")]
Autonomy = Annotated[
    str | None, typer.Option("--autonomy", help="manual, supervised, trusted or autonomous.", metavar="LEVEL")
]
Policy = Annotated[
    list[str] | None, typer.Option("--policy", help="TOOL=allow, ask or deny; may be repeated.", metavar="TOOL=WHAT")
]
Limits = Annotated[
    list[str] | None,
    typer.Option("--set-limit", help="Such as seconds=60 or budget=1.50; may be repeated.", metavar="NAME=VALUE"),
]
Cache = Annotated[int | None, typer.Option("--cache", help="Seconds an answer may be reused; 0 for never.")]
Schema = Annotated[str | None, typer.Option("--output-schema", help="JSON schema of the answer, as JSON or @FILE.")]
Priority = Annotated[int | None, typer.Option("--priority", help="Higher goes first.")]


_OPTIONS: dict[str, tuple[str, Any]] = {
    "description": ("description", Description),
    "instructions": ("instructions", Instructions),
    "model": ("model", Model),
    "fallback": ("fallbacks", Fallbacks),
    "tool": ("tools", Tools),
    "mcp": ("mcp", Mcp),
    "autonomy": ("autonomy", Autonomy),
    "policy": ("tool_policy", Policy),
    "set_limit": ("limits", Limits),
    "cache": ("cache_seconds", Cache),
    "output_schema": ("output_schema", Schema),
    "priority": ("priority", Priority),
}
"""The options of an agent's definition: the field of each, and how the command line reads it."""


def defining(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an agent's definition; it gets what was given as ``given``, in the API's shape."""
    own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "given"]
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=kind) for name, (_, kind) in _OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(cli: Remote, **values: Any) -> None:
        given = _given({name: values.pop(name) for name in _OPTIONS})
        command(cli, **values, given=given)

    run.__dict__["__signature__"] = inspect.Signature([*own, *options])
    return run


@agents.command("list")
@remote
def list_(cli: Remote, limit: Limit = 50) -> None:
    """List your agents."""
    items = cli.client.pages("/v1/my/agents", limit=limit)
    cli.show_all(items, COLUMNS, empty="No agents yet. Create one: retinue agents create NAME --instructions TEXT")


@agents.command()
@remote
def show(cli: Remote, agent: AgentName) -> None:
    """Show one agent; of one whose last run failed, also why."""
    found = _read(cli, agent)
    why: list[Column] = [("last failure", lambda _: _last_failure(cli, found["agent_id"]))]
    cli.show(found, [*FIELDS, *why] if found["status"] == "error" else FIELDS)


def _last_failure(cli: Remote, agent_id: str) -> str:
    runs = cli.client.pages("/v1/my/runs", agent=agent_id, limit=20)
    failed = next((run for run in runs if run["error"]), None)
    return f"{failed['error']['detail']} (retinue runs show {failed['run_id']})" if failed else "-"


@agents.command("install-team")
@remote
def install_team(
    cli: Remote,
    name: Annotated[list[str] | None, typer.Option("--only", help="One of the team; may be repeated.")] = None,
) -> None:
    """Install the starter team of seven and the orchestrator that leads it; agents you have stay as they are."""
    found = cli.client.post("/v1/my/agents/templates/install", {"names": name} if name else {})
    new = [agent["name"] for agent in found["items"] if agent["installed"]]
    told = f"Installed {', '.join(new)}." if new else "You have all of them already."
    cli.done(f"{told} Ask them: retinue ask TEXT", found)


@agents.command()
@remote
def versions(cli: Remote, agent: AgentName, limit: Limit = 50) -> None:
    """List an agent's versions, the newest first."""
    path = f"/v1/my/agents/{Finder(cli.client).agent(agent)}/versions"
    columns: list[Column] = [
        ("VERSION", "version"),
        ("SINCE", lambda item: moment(item["created_at"])),
        ("NAME", lambda item: item["definition"]["name"]),
        ("MODEL", lambda item: item["definition"].get("model") or "-"),
        ("INSTRUCTIONS", lambda item: compact(item["definition"].get("instructions", ""), 60)),
    ]
    cli.show_all(cli.client.pages(path, limit=limit), columns, empty="There are no versions.")


@agents.command()
@remote
@defining
def create(
    cli: Remote,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    *,
    given: Json,
) -> None:
    """Create an agent."""
    agent = cli.client.post("/v1/my/agents", {"name": name, "instructions": "", **given})
    cli.done(f"Created {name} ({agent['agent_id']}). Talk to it: retinue chat {shlex.quote(name)}", agent)


@agents.command()
@remote
@defining
def change(
    cli: Remote,
    agent: AgentName,
    name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    *,
    given: Json,
) -> None:
    """Change an agent: what is given replaces what was there, and a new version begins. Runs keep theirs."""
    if name:
        given["name"] = name
    if not given:
        raise Failure("Nothing to change was given; see: retinue agents change --help", ExitCode.USAGE)
    before = _read(cli, agent)
    path = f"/v1/my/agents/{before['agent_id']}"
    after = cli.client.put(path, merged(before, given), if_match=f'"{before["version"]}"')
    cli.done(f"Changed {after['name']}; it is now version {after['version']}.", after)


@agents.command()
@remote
def delete(
    cli: Remote,
    agent: AgentName,
    force: Annotated[bool, typer.Option("--force", help="Cancel its active runs.")] = False,
) -> None:
    """Delete an agent. What it did stays in the record."""
    cli.client.delete(f"/v1/my/agents/{Finder(cli.client).agent(agent)}", force="true" if force else None)
    cli.done(f"Deleted {agent}.")


@agents.command()
@remote
def pause(cli: Remote, agent: AgentName) -> None:
    """Let an agent start nothing new until it is resumed."""
    item = cli.client.post(f"/v1/my/agents/{Finder(cli.client).agent(agent)}/pause")
    cli.done(f"Paused {agent}.", item)


@agents.command()
@remote
def resume(cli: Remote, agent: AgentName) -> None:
    """Let a paused agent go on."""
    item = cli.client.post(f"/v1/my/agents/{Finder(cli.client).agent(agent)}/resume")
    cli.done(f"Resumed {agent}.", item)


@agents.command()
@remote
def export(
    cli: Remote,
    agent: AgentName,
    to: Annotated[Path | None, typer.Option("--to", help="Write to this file.", dir_okay=False)] = None,
) -> None:
    """Write an agent's definition as YAML."""
    text = cli.client.request("GET", f"/v1/my/agents/{Finder(cli.client).agent(agent)}/export").text
    if to:
        _keep(to, text)
        cli.done(f"Wrote {to}.", {"file": str(to)})
    elif cli.as_json:
        cli.screen.document({"yaml": text})
    else:
        sys.stdout.write(text)


@agents.command("import")
@remote
def import_(
    cli: Remote,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A YAML definition; - for standard input.")],
    replace: Annotated[bool, typer.Option("--replace", help="Change the agent of that name, if there is one.")] = False,
) -> None:
    """Create an agent from a YAML definition."""
    text = sys.stdin.read() if file == "-" else _text(Path(file))
    path = "/v1/my/agents/import?replace=true" if replace else "/v1/my/agents/import"
    agent = cli.client.request("POST", path, content=text.encode(), headers={"Content-Type": "text/yaml"}).json()
    cli.done(f"Imported {agent['name']}, version {agent['version']} ({agent['agent_id']}).", agent)


def _read(cli: Remote, agent: str) -> Json:
    item: Json = cli.client.get(f"/v1/my/agents/{Finder(cli.client).agent(agent)}")
    return item


def _given(options: Json) -> Json:
    """Put the options that were given into the API's shape."""
    made: dict[str, Callable[[Any], Any]] = {
        "instructions": _or_file,
        "mcp": lambda texts: [json_option("--mcp", text) for text in texts],
        "tool_policy": lambda texts: dict(_pair("--policy", text) for text in texts),
        "limits": lambda texts: dict(_limit(text) for text in texts),
        "output_schema": lambda text: json_option("--output-schema", text),
    }
    given: Json = {}
    for option, (field, _) in _OPTIONS.items():
        value = options[option]
        if value is not None and value != [] and (field != "output_schema" or value):
            given[field] = made[field](value) if field in made else value
    return given


_DEFINITION = (
    "name",
    "description",
    "instructions",
    "model",
    "fallbacks",
    "tools",
    "mcp",
    "autonomy",
    "tool_policy",
    "limits",
    "cache_seconds",
    "output_schema",
    "priority",
    "temperature",
    "max_tokens",
)


def merged(before: Json, given: Json) -> Json:
    """Return the whole new definition of an agent: maps are joined, everything else is replaced."""
    after = {key: before[key] for key in _DEFINITION if before.get(key) is not None}
    for key, value in given.items():
        after[key] = {**(before.get(key) or {}), **value} if key in ("tool_policy", "limits") else value
    return after


def _or_file(text: str) -> str:
    return _text(Path(text[1:])) if text.startswith("@") else text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
    except UnicodeDecodeError:
        raise Failure(f"{path} cannot be read: it is no text in UTF-8.", ExitCode.USAGE) from None


def _keep(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}.", ExitCode.USAGE) from None


def json_option(option: str, text: str) -> Any:
    try:
        return json.loads(_or_file(text))
    except ValueError as error:
        raise Failure(f"{option} is not valid JSON: {error}", ExitCode.USAGE) from None


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Failure(f"{option} takes NAME=VALUE, not {text}", ExitCode.USAGE)
    return key, value


def _limit(text: str) -> tuple[str, Any]:
    name, value = _pair("--set-limit", text)
    if value.casefold() in ("none", "null", ""):
        return name, None
    if name == "budget":
        return name, value
    try:
        return name, int(value)
    except ValueError:
        raise Failure(f"--set-limit {text}: a whole number or none is needed", ExitCode.USAGE) from None


def _pairs(value: Any) -> str:
    return ", ".join(f"{key} {'none' if item is None else item}" for key, item in (value or {}).items())
