"""The permission table: (role, resource, action) -> allow, ask or deny. What is not in it is denied.

Each role has what the one below it has, and more. The table says what a role may do at all; predicates in the rooms
(one's own things, the last admin, money left) only tighten it. The page docs/permissions.md is generated from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast, get_args

from retinue.identity import known_scopes
from retinue.kernel import Scope
from retinue.web import Permission

Role = Literal["viewer", "member", "manager", "admin"]

Resource = Literal[
    "profile",
    "tenants",
    "members",
    "keys",
    "agents",
    "sessions",
    "messages",
    "files",
    "runs",
    "approvals",
    "events",
    "budgets",
    "secrets",
    "stop",
    "deadletters",
    "metrics",
    "plans",
    "workflows",
    "teams",
    "items",
    "operations",
    "artifacts",
    "grants",
    "costs",
    "models",
]

Action = Literal[
    "create",
    "read",
    "list",
    "change",
    "delete",
    "decide",
    "cancel",
    "retry",
    "pause",
    "stop",
    "resume",
    "export",
    "import",
    "leave",
]

ROLES: tuple[Role, ...] = get_args(Role)
AGENT = "agent"
"""The role of agents, which no member has."""
GRANTEE = "grantee"
"""The role of applications that act by a user's grant, which no member has."""
RESOURCES: tuple[Resource, ...] = get_args(Resource)
ACTIONS: tuple[Action, ...] = get_args(Action)

Cells = Mapping[Resource, Mapping[Action, Permission]]

_VIEWER: Cells = {
    "profile": {"read": "allow", "change": "allow"},
    "tenants": {"create": "allow", "list": "allow", "read": "allow"},
    "members": {"list": "allow", "read": "allow", "leave": "allow"},
    "keys": {"create": "allow", "list": "allow", "read": "allow", "delete": "allow"},
    "agents": {"list": "allow", "read": "allow"},
    "sessions": {"list": "allow", "read": "allow"},
    "messages": {"list": "allow", "read": "allow"},
    "files": {"list": "allow", "read": "allow"},
    "runs": {"list": "allow", "read": "allow"},
    "approvals": {"list": "allow", "read": "allow"},
    "events": {"list": "allow", "read": "allow"},
    "budgets": {"list": "allow", "read": "allow"},
    "deadletters": {"list": "allow", "read": "allow"},
    "metrics": {"list": "allow", "read": "allow"},
    "plans": {"list": "allow", "read": "allow"},
    "workflows": {"list": "allow", "read": "allow"},
    "teams": {"list": "allow", "read": "allow"},
    "items": {"list": "allow", "read": "allow", "export": "allow"},
    "operations": {"list": "allow", "read": "allow"},
    "artifacts": {"list": "allow", "read": "allow"},
    "grants": {"list": "allow", "read": "allow", "delete": "allow"},
    "costs": {"read": "allow"},
}

_MEMBER: Cells = {
    "agents": {
        "create": "allow",
        "change": "allow",
        "delete": "allow",
        "pause": "allow",
        "resume": "allow",
        "export": "allow",
        "import": "allow",
    },
    "sessions": {"create": "allow", "change": "allow", "delete": "allow"},
    "messages": {"create": "allow"},
    "files": {"create": "allow", "change": "allow", "delete": "allow"},
    "runs": {"create": "allow", "change": "allow", "decide": "allow", "cancel": "allow", "retry": "allow"},
    "approvals": {"decide": "allow", "change": "allow", "delete": "allow"},
    "deadletters": {"change": "allow", "retry": "allow", "delete": "allow"},
    "plans": {"create": "allow", "cancel": "allow", "retry": "allow"},
    "workflows": {"create": "allow"},
    "items": {"create": "allow", "change": "allow", "delete": "allow"},
    "operations": {"create": "allow", "cancel": "allow", "retry": "allow"},
    "artifacts": {"create": "allow", "change": "allow", "delete": "allow"},
    "grants": {"create": "allow"},
    "models": {"create": "allow"},
}

_MANAGER: Cells = {
    "budgets": {"create": "allow", "change": "allow", "delete": "allow"},
    "secrets": {"list": "allow", "read": "allow"},
    "stop": {"stop": "allow", "resume": "allow"},
    "plans": {"change": "allow"},
    "workflows": {"change": "allow", "delete": "allow"},
    "teams": {"create": "allow", "change": "allow", "delete": "allow"},
    "items": {"decide": "allow"},
    "costs": {"list": "allow", "export": "allow"},
}

_ADMIN: Cells = {
    "tenants": {"change": "allow"},
    "members": {"create": "allow", "change": "allow", "delete": "allow"},
    "secrets": {"create": "allow", "change": "allow", "delete": "allow"},
    "operations": {"change": "allow"},
    "costs": {"change": "allow"},
}

# An agent has this and no more, of what the user has in whose name it acts: both must allow. What it asks for, a person
# accepts, or the tenant's policy has accepted already.
_AGENT: Cells = {
    "teams": {"list": "allow", "read": "allow"},
    "items": {"list": "allow", "read": "allow", "change": "ask"},
}

# An application has this of what the user has who granted it: within the grant, and on what belongs to it.
_GRANTEE: Cells = {
    "grants": {"read": "allow"},
    "operations": {"create": "allow", "list": "allow", "read": "allow", "cancel": "allow"},
    "artifacts": {"create": "allow", "list": "allow", "read": "allow", "delete": "allow"},
}

_ADDED: Mapping[Role, Cells] = {"viewer": _VIEWER, "member": _MEMBER, "manager": _MANAGER, "admin": _ADMIN}


def _unfolded() -> Mapping[tuple[str, str, str], Permission]:
    table: dict[tuple[str, str, str], Permission] = {}
    so_far: dict[tuple[str, str], Permission] = {}
    for role in ROLES:
        for resource, actions in _ADDED[role].items():
            so_far.update({(resource, action): permission for action, permission in actions.items()})
        table.update({(role, resource, action): permission for (resource, action), permission in so_far.items()})
    for resource, actions in _AGENT.items():
        table.update({(AGENT, resource, action): permission for action, permission in actions.items()})
    for resource, actions in _GRANTEE.items():
        table.update({(GRANTEE, resource, action): permission for action, permission in actions.items()})
    return MappingProxyType(table)


TABLE = _unfolded()
"""The whole table, without the cells that deny."""

SCOPES = frozenset(
    {f"{resource}:{action}" for role, resource, action in TABLE} | {f"{resource}:*" for role, resource, action in TABLE}
)
"""What an API key can be limited to."""

known_scopes.update(SCOPES)

GRANTEE_SCOPES = frozenset(f"{resource}:{action}" for resource, actions in _GRANTEE.items() for action in actions)
"""What applications can do by grants, as ``resource:action``."""


def scopes_within(role: str) -> frozenset[str] | None:
    """Return what of :data:`GRANTEE_SCOPES` a user of this role has; None for all of it."""
    held = frozenset(one for one in GRANTEE_SCOPES if TABLE.get((role, *one.split(":"))) == "allow")  # type: ignore[arg-type]
    return None if held == GRANTEE_SCOPES else held


def permits(role: str, scopes: frozenset[str] | None, resource: str, action: str) -> Permission:
    """Look a cell up.

    Args:
        role: the caller's role in the tenant.
        scopes: what an API key is limited to, as ``resource:action`` or ``resource:*``; None for no further limit.
        resource: what it is about.
        action: what the caller wants with it.
    """
    if scopes is not None and f"{resource}:{action}" not in scopes and f"{resource}:*" not in scopes:
        return "deny"
    return TABLE.get((role, resource, action), "deny")


def may(scope: Scope, resource: str, action: str) -> bool:
    """Whether the scope's caller may do this in the scope's tenant, without being asked."""
    return permits(scope.role or "", scope.scopes, resource, action) == "allow"


def as_role(text: str) -> Role:
    """Return a stored role as what it is.

    Raises:
        ValueError: there is no such role.
    """
    return ROLES[ROLES.index(cast(Role, text))]
