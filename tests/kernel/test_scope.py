"""Scope, services and clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from retinue.kernel import Actor, ActorKind, ManualClock, Scope, Services, SystemClock, UnitOfWork


class Work:
    """Stands for a unit of work; nothing here uses the database."""

    queries = "the connection"


def scope(**more: Any) -> Scope:
    work = cast(UnitOfWork, Work())
    return Scope(uuid4(), Actor(ActorKind.USER, uuid4()), work, SystemClock(), more.pop("services", Services()), **more)


def test_services_are_found_by_their_class() -> None:
    services = Services()
    first = services.add(ManualClock, ManualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    assert services.get(ManualClock) is first
    assert scope(services=services).service(ManualClock) is first
    second = services.add(ManualClock, ManualClock(datetime(2027, 1, 1, tzinfo=UTC)))
    assert services.get(ManualClock) is second
    with pytest.raises(LookupError, match="SystemClock"):
        services.get(SystemClock)


def test_only_a_user_owns_things() -> None:
    user = uuid4()
    assert scope(user_id=user).owner() == user
    with pytest.raises(LookupError, match="owns nothing"):
        scope().owner()


def test_a_scope_gives_out_its_transactions_connection() -> None:
    assert str(scope().queries) == "the connection"


def test_actors_are_written_by_kind_and_id() -> None:
    assert str(Actor(ActorKind.API_KEY, UUID(int=1))) == "api_key:00000000-0000-0000-0000-000000000001"
    assert str(Actor(ActorKind.SYSTEM)) == "system"


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(timedelta(hours=1))
    clock.advance(timedelta(minutes=-30))
    assert clock.now() == datetime(2026, 1, 1, 0, 30, tzinfo=UTC)


def test_the_machines_clock_knows_its_zone() -> None:
    assert SystemClock().now().utcoffset() == timedelta(0)
