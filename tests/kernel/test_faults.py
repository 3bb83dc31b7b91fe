"""Faults: stable names and statuses, and what each carries."""

from __future__ import annotations

import re

import pytest

from retinue.kernel import BadInput, Fault, NotFound, PreconditionFailed, TooManyRequests, Unauthenticated, Unavailable

KINDS = {
    "bad-input": 422,
    "budget-exhausted": 402,
    "conflict": 409,
    "forbidden": 403,
    "gone": 410,
    "not-found": 404,
    "payload-too-large": 413,
    "precondition-failed": 412,
    "quota-exhausted": 429,
    "storage-full": 507,
    "too-many-requests": 429,
    "unauthenticated": 401,
    "unavailable": 503,
    "unsupported-media-type": 415,
}


def kinds() -> dict[str, int]:
    return {one.kind: one.status for one in Fault.__subclasses__() if one.__module__ == "retinue.kernel.faults"}


def test_kinds_and_statuses_are_part_of_the_api() -> None:
    assert kinds() == KINDS


def test_titles_are_one_line_and_kinds_fit_a_uri() -> None:
    for one in Fault.__subclasses__():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", one.kind)
        assert one.title
        assert "\n" not in one.title


def test_a_fault_carries_its_detail_and_copies_what_it_is_given() -> None:
    extra, headers = {"current": 1}, {"ETag": '"2"'}
    fault = PreconditionFailed("It changed.", extra=extra, headers=headers)
    extra.clear()
    headers.clear()
    assert (fault.detail, str(fault)) == ("It changed.", "It changed.")
    assert (fault.extra, fault.headers) == ({"current": 1}, {"ETag": '"2"'})


def test_bad_input_names_the_field() -> None:
    assert BadInput("too long", field="name").extra == {"errors": [{"field": "name", "message": "too long"}]}
    assert BadInput("nonsense").extra == {}


@pytest.mark.parametrize("seconds, header", [(0, "1"), (0.2, "1"), (1.4, "1"), (59.6, "60")])
def test_when_to_come_back_is_whole_seconds_and_never_at_once(seconds: float, header: str) -> None:
    assert TooManyRequests("slow down", retry_after=seconds).headers == {"Retry-After": header}
    assert Unavailable("away", retry_after=seconds).headers == {"Retry-After": header}


def test_what_is_missing_and_who_is_unknown_are_told_alike_for_everybody() -> None:
    assert NotFound("agent").detail == "There is no such agent."
    assert Unauthenticated().headers == {"WWW-Authenticate": "Bearer"}
