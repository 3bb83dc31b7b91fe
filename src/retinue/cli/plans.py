"""`retinue plans`: what your team does, as a graph of tasks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retinue.cli.agents import json_option
from retinue.cli.approvals import what
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, compact, duration, moment, seconds_between

plans = typer.Typer(name="plans", help="Look at plans of your team, steer them, try them again.", no_args_is_help=True)

PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="Id, the end of one, a title, or last.")]
Watch = Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Approve everything that is asked.")]
_ORIGINS = {"model": "a model", "fallback": "without a model", "cache": "an earlier plan", "api": "you"}

_SHORT = 12
"""Of an id, how much of its end the list shows: enough to name the plan by."""

COLUMNS: list[Column] = [
    ("PLAN", lambda plan: str(plan["plan_id"])[-_SHORT:]),
    ("STATUS", "status"),
    ("TASKS", lambda plan: _tasks(plan)),
    ("TITLE", lambda plan: compact(plan.get("title") or "", 60)),
    ("COST", lambda plan: f"${plan['cost']}"),
    ("CREATED", lambda plan: moment(plan.get("created_at"))),
    ("TOOK", lambda plan: took(plan)),
]
FIELDS: list[Column] = [
    ("plan", "plan_id"),
    ("status", "status"),
    ("error", lambda plan: _error(plan)),
    ("looks", lambda plan: _looks(plan)),
    ("made by", lambda plan: _ORIGINS.get(str(plan.get("origin")), str(plan.get("origin")))),
    ("waits for", lambda plan: _decision(plan)),
    ("was asked", lambda plan: "; ".join(plan.get("asked") or []) or "-"),
    ("works for", lambda plan: f"{plan['parent']['kind']} {plan['parent']['id']}" if plan.get("parent") else "-"),
    ("session", "session_id"),
    ("if one fails", "on_failure"),
    ("missing", "missing"),
    ("tokens", lambda plan: f"{plan.get('tokens') or 0:,}"),
    ("cost", lambda plan: f"${plan['cost']}"),
    ("budget", lambda plan: f"${plan['budget']}" if plan.get("budget") else "-"),
    ("created", lambda plan: moment(plan.get("created_at"))),
    ("ended", lambda plan: moment(plan.get("ended_at"))),
    ("took", lambda plan: took(plan)),
]
EVENTS: list[Column] = [
    ("VERSION", "version"),
    ("EVENT", "type"),
    ("TASK", lambda event: str(event["data"].get("task_id") or "-")),
    ("RECORDED", lambda event: moment(event.get("recorded_at"))),
    ("DATA", lambda event: compact({k: v for k, v in event["data"].items() if k != "task_id"}, 80)),
]


@plans.command("list")
@remote
def list_(
    cli: Remote,
    status: Annotated[str | None, typer.Option("--status", help="Such as running, failed or dead_lettered.")] = None,
    session: Annotated[str | None, typer.Option("--session", help="Only of this session.")] = None,
    limit: Limit = 50,
) -> None:
    """List plans, the newest first."""
    wanted = Finder(cli.client).session(session) if session else None
    items = cli.client.pages("/v1/my/plans", limit=limit, status=status, session=wanted)
    cli.show_all(items, COLUMNS, empty="No plans yet. Ask your team for something: retinue ask TEXT")


@plans.command()
@remote
def show(
    cli: Remote,
    plan: PlanName,
    at: Annotated[int | None, typer.Option("--at", min=1, help="As of this version of the plan.")] = None,
    results: Annotated[bool, typer.Option("--results", help="Print what each task gave, too.")] = False,
) -> None:
    """Show one plan as a tree: who does what, what it waits for, what it took."""
    item = cli.client.get(f"/v1/my/plans/{Finder(cli.client).plan(plan)}", at=at)
    if cli.as_json:
        cli.screen.document(item)
        return
    draw(cli, item)
    cli.screen.line()
    cli.screen.record(FIELDS, item)
    for node in item["nodes"] if results else ():
        if node.get("output") is not None:
            cli.screen.line(f"\n{node['id']} ({node.get('agent') or node['kind']}):", style="bold")
            cli.screen.line(_text(node["output"]))


@plans.command()
@remote
def events(cli: Remote, plan: PlanName, limit: Limit = 0) -> None:
    """List everything that happened in a plan."""
    path = f"/v1/my/plans/{Finder(cli.client).plan(plan)}/events"
    cli.show_all(cli.client.pages(path, limit=limit), EVENTS, empty="Nothing has happened yet.")


@plans.command()
@remote
def watch(cli: Remote, plan: PlanName, yes: Yes = False) -> None:
    """Follow a plan live until it ends; what it asks is asked here. Exit code 6 when it does not succeed."""
    follow_plan(cli, Finder(cli.client).plan(plan), yes=yes)


@plans.command()
@remote
def cancel(
    cli: Remote, plan: PlanName, reason: Annotated[str | None, typer.Option("--reason", help="Why.")] = None
) -> None:
    """End a plan and everything below it."""
    path = f"/v1/my/plans/{Finder(cli.client).plan(plan)}/cancel"
    item = cli.client.post(path, {"reason": reason} if reason else {})
    cli.done(f"The plan is {item['status']}.", item)


@plans.command()
@remote
def retry(cli: Remote, plan: PlanName, wait: Watch = False) -> None:
    """Try again what failed in a plan, and what was left out because of it; what is done stays done."""
    _set_going(cli, plan, "retry", wait=wait, said="The plan is {status}.")


@plans.command()
@remote
def requeue(cli: Remote, plan: PlanName, wait: Watch = False) -> None:
    """Have a plan go on that was put aside (dead_lettered) because every look at it failed; what is done stays done."""
    _set_going(cli, plan, "requeue", wait=wait, said="The plan is {status} again.")


def _set_going(cli: Remote, plan: str, action: str, *, wait: bool, said: str) -> None:
    item = cli.client.post(f"/v1/my/plans/{Finder(cli.client).plan(plan)}/{action}")
    if wait:
        follow_plan(cli, str(item["plan_id"]))
    else:
        cli.done(said.format(status=item["status"]), item)


@plans.command()
@remote
def run(
    cli: Remote,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A plan as JSON; - for standard input.")],
    session: Annotated[str | None, typer.Option("--session", "-s", help="Work on the files of this session.")] = None,
    ask: Annotated[bool, typer.Option("--ask", help="Have it ask you before it begins.")] = False,
    wait: Watch = False,
    yes: Yes = False,
) -> None:
    """Have your agents carry out a graph of tasks that you wrote."""
    body = json_option("FILE", sys.stdin.read() if file == "-" else f"@{Path(file)}")
    if not isinstance(body, dict):
        raise Failure(f"{file} holds no plan: a JSON object with a title and tasks.", ExitCode.USAGE)
    given: Json = {**body}
    if session:
        given["session_id"] = Finder(cli.client).session(session)
    if ask:
        given["approval"] = True
    item = cli.client.post("/v1/my/plans", given)
    if wait:
        follow_plan(cli, str(item["plan_id"]), yes=yes)
    else:
        cli.done(f"Plan {item['plan_id']} is {item['status']}. Follow it: retinue plans watch last", item)


def follow_plan(cli: Remote, plan_id: str, *, yes: bool = False) -> None:
    """Follow a plan to its end in the terminal; with ``yes``, approve whatever is asked.

    Raises:
        Failure: exit code 6 when the plan did not succeed, or something that it wanted is missing.
    """
    from retinue.cli.deciding import decider
    from retinue.cli.plan_following import PlanFollower

    item = PlanFollower(cli.client, cli.screen, decide=decider(cli.screen, yes=yes)).follow(plan_id)
    if cli.as_json:
        cli.screen.document(item)
    if item["status"] != "completed":
        error = _error(item)
        cause = f": {error}" if error != "-" else "."
        raise Failure(f"The plan {item['plan_id']} is {item['status']}{cause}", ExitCode.RUN_FAILED)
    if item.get("missing"):
        missing = ", ".join(item["missing"])
        raise Failure(f"The plan {item['plan_id']} is done, but for: {missing}", ExitCode.RUN_FAILED)


def draw(cli: Remote, plan: Json) -> None:
    """Print a plan as a tree, on standard output; with what its tasks ask people now."""
    from retinue.cli.graph import of_plan
    from retinue.cli.graph_view import GraphView

    graph = of_plan(plan)
    for approval in cli.client.pages("/v1/my/approvals", status="pending") if not graph.ended else ():
        of_task = graph.nodes.get(str(approval.get("task_id"))) if approval.get("plan_id") == graph.plan_id else None
        node = graph.of_run(approval.get("run_id")) or of_task
        if node is not None:
            node.asks = f"{what(approval)}  (retinue approvals show {str(approval['approval_id'])[-_SHORT:]})"
    cli.screen.out.print(GraphView(graph), soft_wrap=False)


def took(plan: Json) -> str:
    """Say how long a plan that has ended took."""
    return duration(seconds_between(plan.get("created_at"), plan.get("ended_at"))) if plan.get("ended_at") else "-"


def _tasks(plan: Json) -> str:
    failed = f", {plan['failed']} failed" if plan.get("failed") else ""
    return f"{plan.get('completed', 0)} of {plan.get('tasks', 0)}{failed}"


def _error(plan: Json) -> str:
    error = plan.get("error")
    return f"{error['detail']} ({error['kind']})" if error else "-"


def _looks(plan: Json) -> str:
    failed = plan.get("look_failed")
    if failed is None:
        return "-"
    return f"{failed['attempt']} failed, the next one {moment(failed['again_at'])}: {compact(failed['cause'], 200)}"


def _decision(plan: Json) -> str:
    waits = plan["status"] == "waiting" and plan.get("approval_id")
    return f"your decision: retinue approvals show {str(plan['approval_id'])[-_SHORT:]}" if waits else "-"


def _text(output: Any) -> str:
    import json

    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2)
