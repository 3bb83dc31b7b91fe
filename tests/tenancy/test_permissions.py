"""The permission table, and that every route names a cell of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from retinue.house import ROOMS
from retinue.tenancy import ACTIONS, RESOURCES, ROLES, permits
from retinue.tenancy.permissions import SCOPES, TABLE, as_role
from retinue.web import Router, public, scoped, sse
from retinue.web.routing import Cell, cell_of

CELLS = list(product(RESOURCES, ACTIONS))


def routes() -> Iterator[APIRoute]:
    for router in [*(router for room in ROOMS for router in room.routers), sse.router]:
        assert isinstance(router, APIRouter)
        yield from (route for route in router.routes if isinstance(route, APIRoute))


def unknown_cells(found: Iterator[APIRoute]) -> list[str]:
    """Routes that name a cell nobody could ever be allowed."""
    breaches = []
    for route in found:
        cell = cell_of(route.dependant)
        if cell is not None and ("admin", cell.resource, cell.action) not in TABLE:
            breaches.append(f"{sorted(route.methods or ())} {route.path}: {cell}")
    return breaches


def test_every_route_names_a_cell_of_the_table() -> None:
    found = list(routes())
    assert len(found) > 40
    assert unknown_cells(iter(found)) == []


def test_a_route_with_an_unknown_cell_is_seen() -> None:
    router = Router()

    @router.get("/unicorns", dependencies=[scoped("unicorns", "read")])
    async def unicorns() -> None: ...

    @router.get("/open", dependencies=[public()])
    async def anybody() -> None: ...

    assert len(unknown_cells(route for route in router.routes if isinstance(route, APIRoute))) == 1


def test_a_route_without_a_cell_is_refused() -> None:
    router = Router()
    with pytest.raises(LookupError, match="names no cell"):

        @router.get("/forgotten")
        async def forgotten() -> None: ...


@pytest.mark.parametrize("resource, action", CELLS)
def test_a_higher_role_may_do_all_that_a_lower_one_may(resource: str, action: str) -> None:
    order = {"deny": 0, "ask": 1, "allow": 2}
    ranks = [order[permits(role, None, resource, action)] for role in ROLES]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    "role, resource, action, expected",
    [
        ("viewer", "runs", "read", "allow"),
        ("viewer", "messages", "create", "deny"),
        ("viewer", "approvals", "decide", "deny"),
        ("viewer", "secrets", "list", "deny"),
        ("member", "messages", "create", "allow"),
        ("member", "approvals", "decide", "allow"),
        ("member", "stop", "stop", "deny"),
        ("member", "budgets", "change", "deny"),
        ("member", "members", "create", "deny"),
        ("manager", "stop", "stop", "allow"),
        ("manager", "budgets", "change", "allow"),
        ("manager", "secrets", "change", "deny"),
        ("manager", "members", "change", "deny"),
        ("admin", "members", "change", "allow"),
        ("admin", "secrets", "change", "allow"),
    ],
)
def test_chosen_cells(role: str, resource: str, action: str, expected: str) -> None:
    assert permits(role, None, resource, action) == expected


@given(role=st.text(), resource=st.text(), action=st.text())
def test_what_is_not_in_the_table_is_denied(role: str, resource: str, action: str) -> None:
    assert permits(role, None, resource, action) == TABLE.get((role, resource, action), "deny")
    assert permits("admin", None, resource + "x", "fly") == "deny"


@pytest.mark.parametrize(
    "scopes, expected",
    [
        (None, "allow"),
        ({"agents:read"}, "allow"),
        ({"agents:*"}, "allow"),
        ({"agents:list", "runs:read"}, "deny"),
        ({"*:*"}, "deny"),
        ({"agents"}, "deny"),
        (set(), "deny"),
    ],
)
def test_scopes_only_tighten(scopes: set[str] | None, expected: str) -> None:
    frozen = None if scopes is None else frozenset(scopes)
    assert permits("viewer", frozen, "agents", "read") == expected


@given(scopes=st.frozensets(st.sampled_from(sorted(SCOPES))), cell=st.sampled_from(CELLS), role=st.sampled_from(ROLES))
def test_no_scope_gives_what_the_role_has_not(scopes: frozenset[str], cell: tuple[str, str], role: str) -> None:
    if permits(role, scopes, *cell) == "allow":
        assert permits(role, None, *cell) == "allow"


def test_a_cell_is_told_by_its_resource_and_action() -> None:
    assert Cell("agents", "read") == Cell("agents", "read") != Cell("agents", "list")


def test_a_stored_role_is_one_of_the_four() -> None:
    assert [as_role(role) for role in ROLES] == list(ROLES)
    with pytest.raises(ValueError):
        as_role("owner")
