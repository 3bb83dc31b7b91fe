"""Prints docs/routes.md from the description of the API that the server itself gives."""

from typing import Any, cast

from retinue.database import Database
from retinue.house import ROOMS
from retinue.kernel import Services, Settings
from retinue.ledger import Feed
from retinue.live import Live, MemoryLive
from retinue.web import Gate, create_app
from retinue.web.openapi import describe

INTRO = """\
# Routes

<!-- Generated from the API's own description by scripts/routes_page.py; run `make generate`. -->

Every route, with the cell of the [permission table](permissions.md) it needs. The description with all fields, answers
and examples is at `/v1/openapi.json` of a running server; how the API behaves is in [http-api.md](http-api.md).
"""

_METHODS = ("get", "post", "put", "delete")


def document() -> dict[str, Any]:
    """Return the OpenAPI document; nothing is opened for it."""
    services = Services()
    database = services.add(Database, Database("postgresql://"))
    services.add(Feed, Feed(database))
    services.add(Live, MemoryLive())  # type: ignore[type-abstract]  # services are found by their base class
    # The gate is asked when somebody comes; here nobody does.
    return describe(create_app(Settings(), services, ROOMS, cast(Gate, None)))


def page(description: dict[str, Any]) -> str:
    """Return the page's text."""
    sections: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                sections.setdefault(operation["tags"][0], []).append(_row(path, method, operation))
    return "\n".join([INTRO, *(_section(tag, rows) for tag, rows in sorted(sections.items()))])


def _section(tag: str, rows: list[str]) -> str:
    return "\n".join([f"## {tag.capitalize()}", "", "| Route | Does | Needs |", "|---|---|---|", *rows, ""])


def _row(path: str, method: str, operation: dict[str, Any]) -> str:
    does = str(operation.get("description", "")).partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    cell = operation.get("x-permission")
    return f"| `{method.upper()} {path}` | {does} | {f'`{cell}`' if cell else 'nothing'} |"


if __name__ == "__main__":
    print(page(document()), end="")
