"""Sealing to a public key: HPKE as RFC 9180 has it, and as Tink does it."""

from __future__ import annotations

import pytest
import tink  # type: ignore[import-untyped]

from retinue.vault import SealBroken, new_recipient, open_sealed, seal_to, usable_recipient
from tests.vault import stranger, tink_oracle

PLAIN = bytes(range(32))
INFO = b"retinue/data-key/for a test"

# RFC 9180, A.1.1: the same suite with AES-128-GCM; the RFC has no vector with AES-256-GCM.
RFC = {
    "private": "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
    "enc": "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
    "info": "4f6465206f6e2061204772656369616e2055726e",
    "aad": "436f756e742d30",
    "plain": "4265617574792069732074727574682c20747275746820626561757479",
    "body": "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a",
}


def test_the_strangers_reader_opens_the_vector_of_the_rfc() -> None:
    vector = {name: bytes.fromhex(value) for name, value in RFC.items()}
    sealed = vector["enc"] + vector["body"]
    found = stranger.open_hpke(vector["private"], sealed, vector["info"], aad=vector["aad"], aead=1, bits=128)
    assert found == vector["plain"]


def test_what_was_sealed_here_is_opened_by_the_stranger_by_tink_and_here() -> None:
    private, public = new_recipient()
    sealed = seal_to(public, PLAIN, INFO)
    assert len(sealed) == 32 + len(PLAIN) + 16
    assert stranger.open_hpke(private, sealed, INFO) == PLAIN
    assert tink_oracle.hpke_open(private, public, sealed, INFO) == PLAIN
    assert open_sealed(private, sealed, INFO) == PLAIN


def test_what_tink_sealed_opens_here() -> None:
    private, public = new_recipient()
    assert open_sealed(private, tink_oracle.hpke_seal(public, PLAIN, INFO), INFO) == PLAIN


def test_nothing_else_opens() -> None:
    """Every flipped bit, every cut, another key, another context."""
    private, public = new_recipient()
    sealed = seal_to(public, PLAIN, INFO)
    for place in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SealBroken):
            open_sealed(private, bytes(changed), INFO)
    for wrong in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(SealBroken):
            open_sealed(private, wrong, INFO)
    with pytest.raises(SealBroken):
        open_sealed(new_recipient()[0], sealed, INFO)
    with pytest.raises(SealBroken):
        open_sealed(private, sealed, INFO + b"!")
    with pytest.raises(tink.TinkError):
        tink_oracle.hpke_open(private, public, sealed, INFO + b"!")


@pytest.mark.parametrize(
    "public",
    [b"", bytes(31), bytes(33), bytes(32), b"\1" + bytes(31), (2**255 - 19 - 1).to_bytes(32, "little")],
    ids=["empty", "short", "long", "zero", "one", "minus-one"],
)
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    """A point of low order would seal under a key that everybody can compute."""
    assert not usable_recipient(public)
    with pytest.raises(ValueError):
        seal_to(public, PLAIN, INFO)


def test_a_fresh_key_is_usable_and_no_private_key_is_accepted_that_is_none() -> None:
    private, public = new_recipient()
    assert usable_recipient(public)
    assert private != public
    with pytest.raises(ValueError):
        open_sealed(b"short", seal_to(public, PLAIN, INFO), INFO)


def test_the_same_value_is_never_sealed_to_the_same_bytes() -> None:
    _private, public = new_recipient()
    assert seal_to(public, PLAIN, INFO) != seal_to(public, PLAIN, INFO)
