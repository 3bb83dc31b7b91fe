"""E-mail addresses and passwords, without HTTP."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.identity import normalised
from retinue.identity.passwords import Passwords, checked
from retinue.kernel import BadInput, Unavailable


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("  ann@example.com ", "ann@example.com"),
        ("ann+tag@sub.example.com", "ann+tag@sub.example.com"),
        ("ANN@intranet", "ann@intranet"),
        ("ﬁona@example.com", "fiona@example.com"),
        ("\uff41\uff4e\uff4e@example.com", "ann@example.com"),
        ("ann@xn--mnchen-3ya.de", "ann@münchen.de"),
        ("ann@MÜNCHEN.de", "ann@münchen.de"),
    ],
)
def test_one_person_s_ways_of_writing_are_one_address(text: str, expected: str) -> None:
    assert normalised(text) == expected
    assert normalised(expected) == expected


@pytest.mark.parametrize(
    "text", ["", "ann", "@example.com", "ann@", "a b@example.com", "a\0@example.com", "\ud800@example.com", "a" * 255]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        normalised(text)
    assert caught.value.field == "email"


@given(st.text(max_size=300))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = normalised(text)
    except BadInput:
        return
    assert found == found.casefold()
    assert "\0" not in found
    assert normalised(found) == found


@pytest.mark.parametrize("length, fits", [(9, False), (10, True), (1024, True), (1025, False)])
def test_a_password_has_bounds(length: int, fits: bool) -> None:
    if fits:
        assert checked("x" * length)
    else:
        with pytest.raises(BadInput, match="10 to 1,024"):
            checked("x" * length)


async def test_a_password_matches_its_own_hash_only() -> None:
    passwords = Passwords()
    encoded = await passwords.hash("correct horse battery")
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.matches(encoded, "correct horse battery")
    assert not await passwords.matches(encoded, "correct horse batterY")
    assert not await passwords.matches(encoded, "")
    assert not await passwords.matches(None, "correct horse battery")
    assert encoded != await passwords.hash("correct horse battery")
    passwords.close()


async def test_a_password_typed_on_another_keyboard_matches() -> None:
    passwords = Passwords()
    composed, decomposed = "caf\u00e9 au lait", "cafe\u0301 au lait"
    assert await passwords.matches(await passwords.hash(composed), decomposed)
    passwords.close()


async def test_checking_nobody_costs_as_much_as_checking_somebody() -> None:
    passwords = Passwords()
    encoded = await passwords.hash("correct horse battery")

    async def seconds(against: str | None) -> float:
        times = []
        for _ in range(5):
            started = time.thread_time_ns(), time.perf_counter()
            await passwords.matches(against, "another password")
            times.append(time.perf_counter() - started[1])
        return min(times)

    somebody, nobody = await seconds(encoded), await seconds(None)
    assert 0.5 < nobody / somebody < 2
    assert nobody > 0.002  # a shortcut would take microseconds
    passwords.close()


async def test_at_most_two_passwords_are_hashed_at_once() -> None:
    passwords = Passwords()
    at_once = most = 0
    lock = threading.Lock()
    real = passwords._verify

    def counted(encoded: str, password: bytes) -> bool:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        try:
            return real(encoded, password)
        finally:
            with lock:
                at_once -= 1

    passwords._verify = counted  # type: ignore[method-assign]  # watched, not replaced
    await asyncio.gather(*(passwords.matches(None, "x") for _ in range(12)))
    assert most == 2
    passwords.close()


async def test_a_flood_of_logins_is_turned_away() -> None:
    passwords = Passwords()
    results = await asyncio.gather(*(passwords.matches(None, "x") for _ in range(205)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, Unavailable)]
    assert len(refused) == 5
    assert refused[0].headers["Retry-After"] == "5"
    passwords.close()


def test_older_parameters_are_outdated() -> None:
    passwords = Passwords()
    assert passwords.is_outdated(
        "$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo"
    )
    passwords.close()
