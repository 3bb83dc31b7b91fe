"""E-mail addresses and passwords, without HTTP."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
import threading

import pytest
from argon2 import extract_parameters
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


async def test_checking_nobody_is_the_same_work_as_checking_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords()
    encoded = await passwords.hash("correct horse battery")
    checked_against: list[str] = []
    real = passwords._verify

    def watched(against: str, password: bytes) -> bool:
        checked_against.append(against)
        return real(against, password)

    monkeypatch.setattr(passwords, "_verify", watched)
    await passwords.matches(encoded, "another password")
    await passwords.matches(None, "another password")
    somebody, nobody = (extract_parameters(one) for one in checked_against)
    assert somebody == nobody
    passwords.close()


async def test_at_most_two_passwords_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
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

    monkeypatch.setattr(passwords, "_verify", counted)
    await asyncio.gather(*(passwords.matches(None, "x") for _ in range(12)))
    assert most == 2
    passwords.close()


async def test_a_flood_of_logins_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords()
    open_gate = threading.Event()
    monkeypatch.setattr(passwords, "_verify", lambda _encoded, _password: open_gate.wait(60))
    waiting = [asyncio.create_task(passwords.matches(None, "x")) for _ in range(200)]
    await asyncio.sleep(0)  # each of them has joined the queue now
    with pytest.raises(Unavailable) as caught:
        await passwords.matches(None, "x")
    assert caught.value.headers["Retry-After"] == "5"
    open_gate.set()
    await asyncio.gather(*waiting)
    assert not await passwords.matches(None, "x")
    passwords.close()


def test_older_parameters_are_outdated() -> None:
    passwords = Passwords()
    assert passwords.is_outdated(
        "$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo"
    )
    passwords.close()


_KEPT = """
import asyncio, psutil
import retinue.identity.passwords as passwords

async def main():
    {planted}
    found, process = passwords.Passwords(), psutil.Process()
    before = process.memory_info().rss
    await asyncio.gather(*(found.hash("x" * 12) for _ in range(10)))
    print((process.memory_info().rss - before) // 2**20)
    found.close()

asyncio.run(main())
"""


async def _kept(planted: str = "pass") -> int:
    """Return how many MiB ten hashes leave behind in a process of their own."""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", _KEPT.format(planted=planted)], check=True, capture_output=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc keeps it")
async def test_hashes_give_their_memory_back() -> None:
    assert await _kept() < 10
    assert await _kept("passwords._give_back_large_blocks = lambda: None") > 10
