"""Finds what a person names: a name, an id, the end of an id, or ``last``."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING
from uuid import UUID

from retinue.cli.failures import ExitCode, Failure
from retinue.cli.screen import Json

if TYPE_CHECKING:
    from retinue.cli.client import Client

_RECENT = 200
"""How many of the newest things are searched for the end of an id."""

_SHORTEST_ENDING = 4


class Finder:
    """Turns what a person types into ids. Every method raises Failure (exit code 3) when nothing fits."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def agent(self, name: str) -> str:
        """Return the id of one of the caller's agents."""
        return self._named("agent", name, "/v1/my/agents", "agent_id", ("name",))

    def tenant(self, name: str) -> str:
        """Return the id of a tenant the caller belongs to; ``personal`` is the caller's own."""
        if is_id(name):
            return name
        tenants = self._client.get("/v1/my/profile")["tenants"]
        if name == "personal":
            return next(str(tenant["tenant_id"]) for tenant in tenants if tenant["personal"])
        return _chosen("tenant", name, tenants, "tenant_id", ("name",))

    def member(self, tenant_id: str, name: str) -> str:
        """Return the user id of a member, found by e-mail or name."""
        path = f"/v1/tenants/{tenant_id}/members"
        return self._named("member", name, path, "user_id", ("email", "name"))

    def key(self, name: str) -> str:
        """Return the id of one of the caller's API keys."""
        return self._named("key", name, "/v1/my/keys", "key_id", ("name",))

    def grant(self, name: str, path: str = "/v1/my/grants") -> str:
        """Return the id of a grant of a list, found by its application or ``last``."""
        return self._named("grant", name, path, "grant_id", ("application",))

    def operation(self, name: str) -> str:
        """Return the id of an operation."""
        return self._named("operation", name, "/v1/operations", "operation_id", ())

    def session(self, name: str) -> str:
        """Return the id of a chat session, found by its title or ``last``."""
        return self._named("session", name, "/v1/my/chat", "session_id", ("title",))

    def run(self, name: str) -> str:
        """Return the id of a run."""
        return self._named("run", name, "/v1/my/runs", "run_id", ())

    def plan(self, name: str) -> str:
        """Return the id of a plan, found by its title or ``last``."""
        return self._named("plan", name, "/v1/my/plans", "plan_id", ("title",))

    def callback(self, name: str) -> str:
        """Return the id of a callback of a workflow's run."""
        return self._named("callback", name, "/v1/callbacks", "callback_id", ())

    def item(self, name: str) -> str:
        """Return the id of a work item, found by its title or ``last``."""
        return self._named("item", name, "/v1/board/items", "item_id", ("title",))

    def team(self, tenant_id: str, name: str) -> str:
        """Return the id of a team of a tenant."""
        return self._named("team", name, f"/v1/tenants/{tenant_id}/teams", "team_id", ("name",))

    def approval(self, name: str) -> str:
        """Return the id of an approval."""
        return self._named("approval", name, "/v1/my/approvals", "approval_id", ())

    def approval_rule(self, name: str) -> str:
        """Return the id of a rule learnt from approvals."""
        return self._named("rule", name, "/v1/my/approval-rules", "rule_id", ("tool",))

    def dead_letter(self, name: str) -> str:
        """Return the id of a dead run."""
        return self._named("dead letter", name, "/v1/my/deadletters", "run_id", ())

    def _named(self, what: str, name: str, path: str, key: str, names: Sequence[str]) -> str:
        if is_id(name):
            return name
        items = list(self._client.pages(path, limit=_RECENT))
        return _chosen(what, name, items, key, names)


def _chosen(what: str, name: str, items: Sequence[Json], key: str, names: Sequence[str]) -> str:
    if name == "last" and items:
        return str(max(str(item[key]) for item in items))  # ids are UUIDv7: the greatest is the newest
    wanted = name.casefold()
    found = {
        str(item[key])
        for item in items
        if str(item[key]) == wanted or any(str(item.get(label) or "").casefold() == wanted for label in names)
    }
    if not found and len(wanted) >= _SHORTEST_ENDING:
        found = {str(item[key]) for item in items if str(item[key]).endswith(wanted)}
    if len(found) == 1:
        return found.pop()
    if found:
        raise Failure(f"{name} fits {len(found)} {what}s; give the id: {', '.join(sorted(found))}", ExitCode.USAGE)
    raise Failure(f"There is no {what} {name}.{_nearest(name, items, names)}", ExitCode.NOT_FOUND)


def _nearest(name: str, items: Sequence[Json], names: Sequence[str]) -> str:
    known = [str(item[label]) for item in items for label in names if item.get(label)]
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def is_id(text: str) -> bool:
    """Whether this is an id, whatever it is of."""
    try:
        UUID(text)
    except ValueError:
        return False
    return True
