"""Ids: version 7, in order, unique, also from many threads and when the clock goes back."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from retinue.kernel import NotFound, new_id, parse_id


def milliseconds(found: UUID) -> int:
    return found.int >> 80


def test_an_id_is_a_uuid_of_version_7_that_holds_the_time() -> None:
    before = time.time_ns() // 1_000_000
    found = new_id()
    assert (found.version, found.variant) == (7, "specified in RFC 4122")
    assert before <= milliseconds(found) <= time.time_ns() // 1_000_000 + 1


def test_ids_rise_strictly() -> None:
    made = [new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_rise_though_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    before = new_id()
    made = []
    for shift in (0, 0, -5_000_000_000, 0, 10_000_000):
        monkeypatch.setattr(time, "time_ns", lambda shift=shift: now + shift)
        made += [new_id() for _ in range(5000)]
    assert [before, *made] == sorted({before, *made})


def test_threads_get_different_ids() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [one for many in threads.map(lambda _: [new_id() for _ in range(2000)], range(8)) for one in many]
    assert len(set(made)) == 16_000


def test_the_random_part_differs() -> None:
    assert len({new_id().int & ((1 << 62) - 1) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "x", "1234", "0190-zz", "0" * 33, "\x00" * 32])
def test_what_is_no_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound, match="no such agent"):
        parse_id(text, "agent")


def test_an_id_is_read_back() -> None:
    found = uuid4()
    assert parse_id(str(found), "agent") == parse_id(found.hex.upper(), "agent") == found
