"""`retinue runs`: what was asked, what came of it, and what to do when it went wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, compact, duration, moment, money, seconds_between

runs = typer.Typer(name="runs", help="Look at runs, steer them, repair them.", no_args_is_help=True)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Id, the end of one, or last.")]

COLUMNS: list[Column] = [
    ("RUN", "run_id"),
    ("STATUS", lambda run: _status(run)),
    ("STEPS", "steps"),
    ("TOKENS", lambda run: str((run.get("input_tokens") or 0) + (run.get("output_tokens") or 0))),
    ("COST", lambda run: money(run.get("cost"))),
    ("CREATED", lambda run: moment(run.get("created_at"))),
    ("TOOK", lambda run: _took(run)),
]
FIELDS: list[Column] = [
    ("run", "run_id"),
    ("status", lambda run: _status(run)),
    ("error", lambda run: _error(run)),
    ("waiting on", lambda run: _waiting(run)),
    ("agent", lambda run: f"{run.get('agent_id')} version {run.get('agent_version')}"),
    ("session", "session_id"),
    ("works for", lambda run: _parent(run)),
    ("steps", "steps"),
    ("model calls", "model_calls"),
    ("tool calls", "tool_calls"),
    ("tokens", lambda run: f"{run.get('input_tokens', 0)} in, {run.get('output_tokens', 0)} out"),
    ("cost", lambda run: money(run.get("cost"))),
    ("answered by", lambda run: "the demo script (no model)" if run.get("demo") else "-"),
    ("attempts", "attempts"),
    ("created", lambda run: moment(run.get("created_at"))),
    ("started", lambda run: moment(run.get("started_at"))),
    ("ended", lambda run: moment(run.get("ended_at"))),
    ("took", lambda run: _took(run)),
    ("version", "version"),
]
STEPS: list[Column] = [
    ("STEP", "step"),
    ("KIND", "kind"),
    ("NAME", "name"),
    ("STATUS", lambda step: _step_status(step)),
    ("TOOK", lambda step: duration(step["milliseconds"] / 1000)),
    ("TOKENS", "tokens"),
    ("COST", lambda step: f"${step['cost']}" if step.get("cost") is not None else "-"),
    ("DETAIL", lambda step: compact(step.get("arguments") or step.get("result") or "", 60)),
]
EVENTS: list[Column] = [
    ("POSITION", "position"),
    ("VERSION", "version"),
    ("EVENT", "type"),
    ("ACTOR", lambda event: str(event.get("actor") or "-").partition(":")[0]),
    ("RECORDED", lambda event: moment(event.get("recorded_at"))),
    ("DATA", lambda event: compact(event.get("data"), 80)),
]


@runs.command("list")
@remote
def list_(
    cli: Remote,
    status: Annotated[str | None, typer.Option("--status", help="Such as waiting or failed.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only of this agent (name or id).")] = None,
    session: Annotated[str | None, typer.Option("--session", help="Only of this session.")] = None,
    limit: Limit = 50,
) -> None:
    """List runs, the newest first."""
    finder = Finder(cli.client)
    items = cli.client.pages(
        "/v1/my/runs",
        limit=limit,
        status=status,
        agent=finder.agent(agent) if agent else None,
        session=finder.session(session) if session else None,
    )
    cli.show_all(items, COLUMNS, empty="No runs.")


@runs.command()
@remote
def show(
    cli: Remote,
    run: RunName,
    at: Annotated[int | None, typer.Option("--at", min=1, help="As of this version of the run.")] = None,
) -> None:
    """Show one run."""
    cli.show(cli.client.get(f"/v1/my/runs/{Finder(cli.client).run(run)}", at=at), FIELDS)


@runs.command()
@remote
def events(cli: Remote, run: RunName, limit: Limit = 0) -> None:
    """List everything that happened in a run."""
    path = f"/v1/my/runs/{Finder(cli.client).run(run)}/events"
    cli.show_all(cli.client.pages(path, limit=limit), EVENTS, empty="Nothing has happened yet.")


@runs.command()
@remote
def steps(cli: Remote, run: RunName) -> None:
    """List a run's model and tool calls, with what each took."""
    path = f"/v1/my/runs/{Finder(cli.client).run(run)}/steps"
    cli.show_all(step_list(cli.client.get(path)), STEPS, empty="No steps yet.")


@runs.command()
@remote
def watch(cli: Remote, run: RunName) -> None:
    """Follow a run live until it ends; approvals are asked for on the way. Exit code 6 when it does not succeed."""
    _follow(cli, Finder(cli.client).run(run))


@runs.command()
@remote
def cancel(
    cli: Remote, run: RunName, reason: Annotated[str | None, typer.Option("--reason", help="Why.")] = None
) -> None:
    """Stop a run, also in the middle of a model call."""
    path = f"/v1/my/runs/{Finder(cli.client).run(run)}/cancel"
    item = cli.client.post(path, {"reason": reason} if reason else {})
    cli.done(f"The run is {item['status']}.", item)


@runs.command()
@remote
def retry(
    cli: Remote, run: RunName, wait: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False
) -> None:
    """Continue a failed run from the step that failed."""
    run_id = Finder(cli.client).run(run)
    item = cli.client.post(f"/v1/my/runs/{run_id}/retry")
    if wait:
        _follow(cli, str(item["run_id"]))
    else:
        cli.done(f"The run is {item['status']}.", item)


@runs.command()
@remote
def reconcile(
    cli: Remote,
    run: RunName,
    call: Annotated[str, typer.Argument(metavar="CALL", help="The tool call in doubt; see `retinue runs show`.")],
    outcome: Annotated[str, typer.Argument(metavar="OUTCOME", help="happened, again or give_up.")],
    result: Annotated[str | None, typer.Option("--result", help="What it returned, when it happened.")] = None,
) -> None:
    """Say what became of an effect that a crash left in doubt."""
    body = {"call_id": call, "outcome": outcome, **({"result": result} if result is not None else {})}
    item = cli.client.post(f"/v1/my/runs/{Finder(cli.client).run(run)}/reconcile", body)
    cli.done(f"The run is {item['status']}.", item)


def _follow(cli: Remote, run_id: str) -> None:
    from retinue.cli.following import finish
    from retinue.cli.team_following import TeamFollower

    session_id = str(cli.client.get(f"/v1/my/runs/{run_id}")["session_id"])
    follower = TeamFollower(cli.client, cli.screen, session_id)
    finish(cli, follower.follow(run_id), follower)


def step_list(answer: Any) -> list[Json]:
    """Return the items of an answer, which is a list or a page."""
    items: list[Json] = answer["items"] if isinstance(answer, dict) else answer
    return items


def _step_status(step: Json) -> str:
    if step.get("from_cache"):
        return "from cache"
    return "failed" if step.get("failed") and step["status"] == "done" else str(step["status"])


def _status(run: Json) -> str:
    return f"{run['status']} (demo)" if run.get("demo") else str(run["status"])


def _took(run: Json) -> str:
    return duration(seconds_between(run.get("created_at"), run.get("ended_at"))) if run.get("ended_at") else "-"


def _error(run: Json) -> str:
    error = run.get("error")
    return f"{error['kind']}: {error['detail']}" if error else "-"


def _parent(run: Json) -> str:
    parent = run.get("parent")
    return f"{parent['kind']} {parent['id']}, {parent['key']}" if parent else "-"


def _waiting(run: Json) -> str:
    return "\n".join(compact(item) for item in run.get("waiting_on") or []) or "-"
