"""Sealed values and the file of root keys."""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.vault import FileKeyRing, SealBroken, VaultLocked
from retinue.vault.sealing import KEY_BYTES, decrypt, derive, encrypt, new_key


@given(plaintext=st.binary(max_size=200), context=st.binary(max_size=40))
def test_a_sealed_value_opens_in_its_place(plaintext: bytes, context: bytes) -> None:
    key = new_key()
    assert decrypt(key, encrypt(key, plaintext, context), context) == plaintext


@given(plaintext=st.binary(min_size=1, max_size=60), data=st.data())
def test_a_sealed_value_with_any_bit_changed_does_not_open(plaintext: bytes, data: st.DataObject) -> None:
    key = new_key()
    sealed = bytearray(encrypt(key, plaintext, b"here"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(SealBroken):
        decrypt(key, bytes(sealed), b"here")


@pytest.mark.parametrize("cut", [0, 1, 12, 13, 20])
def test_a_sealed_value_that_was_cut_does_not_open(cut: int) -> None:
    key = new_key()
    with pytest.raises(SealBroken):
        decrypt(key, encrypt(key, b"a secret", b"")[:cut], b"")


def test_a_sealed_value_opens_with_its_key_and_context_only() -> None:
    key = new_key()
    sealed = encrypt(key, b"a secret", b"tenant a")
    for other_key, context in [(new_key(), b"tenant a"), (key, b"tenant b")]:
        with pytest.raises(SealBroken):
            decrypt(other_key, sealed, context)


def test_equal_values_are_sealed_differently() -> None:
    key = new_key()
    assert encrypt(key, b"same", b"") != encrypt(key, b"same", b"")


def test_derived_keys_differ_by_purpose_and_stay_the_same() -> None:
    key = bytes(range(32))
    assert derive(key, "one") == derive(key, "one")
    assert len({derive(key, "one"), derive(key, "two"), key}) == 3
    # Fixed for good: tokens and API keys of a running server depend on it.
    assert derive(key, "one").hex() == "b3a1a7d2da50225f99db730fd5cd7d3b2a45e96753d7a91aeae607f749c96389"


async def test_the_root_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "data" / "root.key"
    ring = FileKeyRing.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert FileKeyRing.create(path).root_id == ring.root_id == FileKeyRing.open(path).root_id
    assert [entry.name for entry in path.parent.iterdir()] == ["root.key"]


def test_of_many_that_make_the_root_key_at_once_one_wins(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        rings = list(threads.map(lambda _: FileKeyRing.create(tmp_path / "root.key"), range(32)))
    assert len({ring.root_id for ring in rings}) == 1


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o610])
def test_a_root_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "root.key"
    FileKeyRing.create(path)
    path.chmod(mode)
    with pytest.raises(VaultLocked, match=f"chmod 600 {path}"):
        FileKeyRing.open(path)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"not base64 !\n", b"AAAA\n", b"\xff\xfe\n"])
def test_a_damaged_root_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "root.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(VaultLocked, match=r"root\.key"):
        FileKeyRing.open(path)


def test_a_missing_root_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VaultLocked, match="missing"):
        FileKeyRing.open(tmp_path / "root.key")


async def test_a_wrapped_key_unwraps_in_its_context_only(tmp_path: Path) -> None:
    ring = FileKeyRing.create(tmp_path / "root.key")
    key = new_key()
    wrapped = await ring.wrap(key, b"tenant a")
    assert await ring.unwrap(wrapped, b"tenant a") == key
    assert key not in wrapped.data
    with pytest.raises(SealBroken):
        await ring.unwrap(wrapped, b"tenant b")


async def test_another_server_s_root_key_is_told_apart(tmp_path: Path) -> None:
    wrapped = await FileKeyRing.create(tmp_path / "a").wrap(new_key(), b"")
    with pytest.raises(VaultLocked, match=wrapped.root_id):
        await FileKeyRing.create(tmp_path / "b").unwrap(wrapped, b"")


async def test_a_rotation_keeps_the_former_key_until_it_is_retired(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    ring, elsewhere = FileKeyRing.create(path), FileKeyRing.open(path)
    before = await ring.wrap(b"k" * KEY_BYTES, b"")
    await ring.rotate()
    after = await ring.wrap(b"k" * KEY_BYTES, b"")
    assert before.root_id != after.root_id == ring.root_id
    # Another process learns of it when it meets something it cannot open.
    assert await elsewhere.unwrap(after, b"") == await ring.unwrap(before, b"") == b"k" * KEY_BYTES
    await ring.retire(ring.root_id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(VaultLocked):
        await FileKeyRing.open(path).unwrap(before, b"")


async def test_rotations_of_two_processes_lose_no_key(tmp_path: Path) -> None:
    path = tmp_path / "root.key"
    one, two = FileKeyRing.create(path), FileKeyRing.open(path)
    wrapped = [await one.wrap(b"a" * 32, b"")]
    await one.rotate()
    wrapped.append(await one.wrap(b"b" * 32, b""))
    await two.rotate()
    wrapped.append(await two.wrap(b"c" * 32, b""))
    fresh = FileKeyRing.open(path)
    assert await asyncio.gather(*(fresh.unwrap(one_key, b"") for one_key in wrapped)) == [
        b"a" * 32,
        b"b" * 32,
        b"c" * 32,
    ]


def test_an_interrupted_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "root.key"
    ring = FileKeyRing.create(path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(ring.rotate())
    monkeypatch.undo()
    assert FileKeyRing.open(path).root_id == ring.root_id
    assert [entry.name for entry in tmp_path.iterdir()] == ["root.key"]
