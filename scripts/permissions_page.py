"""Prints docs/permissions.md from the permission table."""

from retinue.tenancy import ACTIONS, AGENT, RESOURCES, ROLES, permits

INTRO = """\
# Permissions

<!-- Generated from src/retinue/tenancy/permissions.py by scripts/permissions_page.py; run `make generate`. -->

Every route of the API names one cell of this table: a resource and an action. The caller's role in the tenant of the
request decides. What the table does not allow is denied (403). A tenant that the caller is no member of does not exist
(404).

In your personal tenant you are admin. In an organisation you have the role an admin gave you. Under `/v1/my` a role
reaches your own things only. An API key has the rights of its user's role, limited to its scopes: `agents:read` is one
cell, `agents:*` is a whole section below. An agent has what its column allows of what its user has; for `ask`, a
person accepts what it proposes, unless the tenant's policy has accepted it already. The last admin of an organisation
can neither leave nor be changed.
"""


def page() -> str:
    """Return the page's text."""
    return "\n".join([INTRO, *(_section(resource) for resource in RESOURCES)])


def _section(resource: str) -> str:
    head = f"| {resource} | {' | '.join((*ROLES, AGENT))} |"
    rule = "|---" * (len(ROLES) + 2) + "|"
    rows = [_row(resource, action) for action in ACTIONS]
    return "\n".join([head, rule, *(row for row in rows if row), ""])


def _row(resource: str, action: str) -> str:
    cells = [permits(role, None, resource, action) for role in (*ROLES, AGENT)]
    if set(cells) == {"deny"}:
        return ""
    return f"| {action} | {' | '.join('' if cell == 'deny' else cell for cell in cells)} |"


if __name__ == "__main__":
    print(page(), end="")
