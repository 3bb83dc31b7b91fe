"""`retinue approvals`: what agents ask before they act."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from retinue.cli.agents import json_option
from retinue.cli.deciding_plans import show_plan
from retinue.cli.finding import Finder
from retinue.cli.remote import Limit, Remote, remote
from retinue.cli.screen import Column, Json, Screen, compact, moment

approvals = typer.Typer(name="approvals", help="Decide what agents may do.", no_args_is_help=True)

ApprovalName = Annotated[str, typer.Argument(metavar="APPROVAL", help="Id, the end of one, or last.")]
Comment = Annotated[str | None, typer.Option("--comment", "-c", help="Told to the agent.")]

COLUMNS: list[Column] = [
    ("APPROVAL", "approval_id"),
    ("STATUS", "status"),
    ("WHAT", lambda item: what(item)),
    ("WHY", lambda item: compact(item.get("reason") or "", 40)),
    ("EXPIRES", lambda item: moment(item.get("expires_at"))),
]
FIELDS: list[Column] = [
    ("approval", "approval_id"),
    ("status", "status"),
    ("kind", "kind"),
    ("tool", "tool"),
    ("arguments", lambda item: _arguments(item.get("arguments"))),
    ("question", "question"),
    ("options", "options"),
    ("effect", "effect"),
    ("reason", "reason"),
    ("tainted by", "tainted_by"),
    ("run", "run_id"),
    ("plan", "plan_id"),
    ("task", "task_id"),
    ("agent", "agent_id"),
    ("to be decided by", "assignees"),
    ("created", lambda item: moment(item.get("created_at"))),
    ("expires", lambda item: moment(item.get("expires_at"))),
    ("decided", lambda item: moment(item.get("decided_at"))),
    ("decided by", "decided_by"),
    ("comment", "comment"),
]


@approvals.command("list")
@remote
def list_(
    cli: Remote,
    status: Annotated[str | None, typer.Option("--status", help="pending, approved, rejected ...; all")] = "pending",
    limit: Limit = 50,
) -> None:
    """List approvals; without --status those that wait for you."""
    wanted = None if status == "all" else status
    items = cli.client.pages("/v1/my/approvals", limit=limit, status=wanted)
    cli.show_all(items, COLUMNS, empty="Nothing waits for a decision." if wanted == "pending" else "No approvals.")


@approvals.command()
@remote
def show(cli: Remote, approval: ApprovalName) -> None:
    """Show one approval: exactly what would be done; of a plan, its tasks and what each agent may do."""
    item = cli.client.get(f"/v1/my/approvals/{Finder(cli.client).approval(approval)}")
    if item["kind"] == "plan" and not cli.as_json:
        show_plan(Screen(notes_on_stdout=True), item)
        item = {**item, "arguments": None}
    cli.show(item, FIELDS)


@approvals.command()
@remote
def approve(
    cli: Remote,
    approval: ApprovalName,
    comment: Comment = None,
    edited: Annotated[
        str | None,
        typer.Option("--edit", help='Other arguments, as JSON or @FILE; for a plan {"tasks": [...]}.', metavar="JSON"),
    ] = None,
    remember: Annotated[bool, typer.Option("--remember", help="Do not ask for this tool again.")] = False,
    answer: Annotated[str | None, typer.Option("--answer", help="The answer to a question.")] = None,
) -> None:
    """Let it happen, once."""
    body = {
        "decision": "approve",
        "comment": comment,
        "edited_arguments": json_option("--edit", edited) if edited else None,
        "remember": remember or None,
        "answer": answer,
    }
    item = decide(cli, approval, body)
    cli.done(f"Approved: {what(item)}", item)


@approvals.command()
@remote
def reject(cli: Remote, approval: ApprovalName, comment: Comment = None) -> None:
    """Do not let it happen; the agent is told and goes on."""
    item = decide(cli, approval, {"decision": "reject", "comment": comment})
    cli.done(f"Rejected: {what(item)}", item)


@approvals.command()
@remote
def rules(cli: Remote, limit: Limit = 50) -> None:
    """List what you told agents not to ask again."""
    columns: list[Column] = [
        ("RULE", "rule_id"),
        ("AGENT", "agent_id"),
        ("TOOL", "tool"),
        ("DECISION", "decision"),
        ("SINCE", lambda item: moment(item.get("created_at"))),
    ]
    cli.show_all(cli.client.pages("/v1/my/approval-rules", limit=limit), columns, empty="No rules.")


@approvals.command()
@remote
def forget(
    cli: Remote, rule: Annotated[str, typer.Argument(metavar="RULE", help="Id, the end of one, or the tool.")]
) -> None:
    """Remove a rule; the tool asks again."""
    cli.client.delete(f"/v1/my/approval-rules/{Finder(cli.client).approval_rule(rule)}")
    cli.done("The rule is gone.")


def decide(cli: Remote, approval: str, body: Json) -> Json:
    """Send a decision and return the approval as it is then."""
    path = f"/v1/my/approvals/{Finder(cli.client).approval(approval)}/confirm"
    item: Json = cli.client.post(path, {key: value for key, value in body.items() if value is not None})
    return item


def what(item: Json) -> str:
    """Say in one line what an approval is about."""
    if item.get("kind") in ("question", "plan_step"):
        return compact(item.get("question") or "", 80)
    if item.get("kind") == "plan":
        tasks = (item.get("arguments") or {}).get("tasks") or []
        title = compact((item.get("arguments") or {}).get("title") or "", 60)
        return f"plan of {len(tasks)} task{'' if len(tasks) == 1 else 's'}: {title}"
    return f"{item.get('tool')}({compact(item.get('arguments'), 80)})"


def _arguments(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False, indent=2) if arguments is not None else "-"
