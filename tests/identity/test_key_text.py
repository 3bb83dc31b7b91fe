"""The text of API keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.identity.key_text import digest, hint, is_well_formed, new_key_text


def test_a_key_says_what_it_is() -> None:
    key = new_key_text("live")
    assert re.fullmatch(r"rtn_live_[0-9A-Za-z]{36}", key)
    assert is_well_formed(key)
    assert hint(key) == key[:13]
    assert new_key_text("live") != key


def test_the_checksum_is_fixed_for_good() -> None:
    """Keys that were given out must stay well formed in every later version."""
    assert is_well_formed("rtn_live_0123456789ABCDEFGHIJabcdefghij0GJqk8")


@given(position=st.integers(0, 44), letter=st.sampled_from("0123456789ABCXYZabcxyz_"))
def test_a_mistyped_key_is_noticed(position: int, letter: str) -> None:
    key = new_key_text("live")
    mistyped = key[:position] + letter + key[position + 1 :]
    assert is_well_formed(mistyped) == (mistyped == key)


@pytest.mark.parametrize("text", ["", "rtn_", "rtn_live_", "rtn_live_short", "sk-live", "rtn_live_" + "é" * 36])
def test_other_texts_are_not_keys(text: str) -> None:
    assert not is_well_formed(text)


def test_a_trailing_line_end_is_not_part_of_a_key() -> None:
    assert not is_well_formed(new_key_text("live") + "\n")


def test_a_digest_depends_on_key_and_pepper() -> None:
    key = new_key_text("live")
    assert len({digest(key, b"a" * 32), digest(key, b"b" * 32), digest(new_key_text("live"), b"a" * 32)}) == 3
