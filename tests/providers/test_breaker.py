"""The breaker against a plain model of it, and its corners one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retinue.providers.breaker import Admission, Breaker


class Time:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Breaker:
    breaker = Breaker(threshold=3, rest=10.0, now=time)
    for _ in range(3):
        breaker.ended(breaker.admit(), healthy=False)
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(threshold=3, now=Time())
    for healthy in (False, False, True, False, None, False):
        assert breaker.admit() is Admission.FREE
        breaker.ended(Admission.FREE, healthy=healthy)
    assert breaker.admit() is Admission.FREE
    breaker.ended(Admission.FREE, healthy=False)
    assert breaker.admit() is Admission.HELD


def test_one_probe_goes_through_after_the_rest() -> None:
    time = Time()
    breaker = opened(time)
    assert breaker.wait() == 10.0
    time.now = 9.9
    assert breaker.admit() is Admission.HELD
    time.now = 10.0
    assert breaker.wait() == 0.0
    assert [breaker.admit(), breaker.admit()] == [Admission.PROBE, Admission.HELD]
    breaker.ended(Admission.PROBE, healthy=True)
    assert breaker.admit() is Admission.FREE


def test_a_failed_probe_opens_it_again() -> None:
    time = Time()
    breaker = opened(time)
    time.now = 10.0
    breaker.ended(breaker.admit(), healthy=False)
    assert breaker.admit() is Admission.HELD
    assert breaker.wait() == 10.0


def test_a_probe_that_says_nothing_makes_room_for_another() -> None:
    time = Time()
    breaker = opened(time)
    time.now = 10.0
    breaker.ended(breaker.admit(), healthy=None)
    assert breaker.admit() is Admission.PROBE


def test_late_failures_do_not_prolong_the_rest_or_end_a_probe() -> None:
    time = Time()
    breaker = opened(time)
    time.now = 9.0
    breaker.ended(Admission.FREE, healthy=False)
    time.now = 10.0
    assert breaker.admit() is Admission.PROBE
    breaker.ended(Admission.FREE, healthy=False)
    assert breaker.admit() is Admission.HELD


@given(st.lists(st.sampled_from(["admit", "good", "bad", "nothing", "later"]), max_size=60))
def test_there_is_never_more_than_one_probe_and_it_always_comes_back(steps: list[str]) -> None:
    time = Time()
    breaker = Breaker(threshold=2, rest=5.0, now=time)
    under_way: list[Admission] = []
    for step in steps:
        if step == "later":
            time.now += 5.0
        elif step == "admit":
            admission = breaker.admit()
            if admission is not Admission.HELD:
                under_way.append(admission)
        elif under_way:
            breaker.ended(under_way.pop(0), healthy={"good": True, "bad": False, "nothing": None}[step])
        assert under_way.count(Admission.PROBE) <= 1
    for admission in under_way:
        breaker.ended(admission, healthy=None)
    time.now += 5.0
    assert breaker.admit() is not Admission.HELD
