"""The keys of grantees: applications that sign their requests, with a key of their own or with a wallet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from uuid import UUID, uuid5

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from retinue.kernel import base64url, from_base64url

LONGEST = 100
_ED25519, _WALLET = "ed25519:", "eip155:"
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z")
_NAMESPACE = UUID("6f0c7c1e-58f0-5b0e-9a61-0d7c5b7d2f3a")
_FIELD = 2**255 - 19

# The points of Ed25519 whose order is small: a signature under such a key can be made without any secret.
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        2707385501144840649318225287225658788936804267575313519463743609750303402022,
        55188659117513257062467267217118295137698188065244968500265048394206261417927,
    }
)


def grantee_id(text: str) -> UUID:
    """Return the id under which a key acts in events and logs; the same key has the same id everywhere."""
    return uuid5(_NAMESPACE, text)


@dataclass(frozen=True, slots=True)
class GranteeKey:
    """A public key, or the address of one.

    Attributes:
        text: as it stands in the ``keyid`` of signatures, in its one canonical spelling.
        kind: ``ed25519`` (RFC 8032), or ``eip155``: a wallet, whose signatures are EIP-191 ``personal_sign``.
        raw: the 32 bytes of the key, or the 20 of the address.
    """

    text: str
    kind: Literal["ed25519", "eip155"]
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> GranteeKey:
        """Read a key: ``ed25519:<base64url of the raw key>`` or ``eip155:<0x and 40 hex digits>``.

        Raises:
            ValueError: it is no such key; the message says what is wrong with it.
        """
        if len(text) > LONGEST:
            raise ValueError("too long for a key")
        if text.startswith(_ED25519):
            return _read_ed25519(text)
        if text.startswith(_WALLET):
            return _read_wallet(text)
        raise ValueError("a key begins with `ed25519:` or `eip155:`")

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether the holder of this key has signed ``message``. A wallet's takes 8 ms of computing."""
        if self.kind == "eip155":
            return _address_of_signer(signature, message) == self.raw
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def _read_ed25519(text: str) -> GranteeKey:
    encoded = text.removeprefix(_ED25519)
    try:
        raw = from_base64url(encoded)
    except ValueError:
        raw = b""
    # Compared with its own encoding, so that one key has one name.
    if len(raw) != 32 or base64url(raw) != encoded:
        raise ValueError("an Ed25519 public key is 32 bytes in base64url, without padding")
    if int.from_bytes(raw, "little") % 2**255 % _FIELD in _SMALL_ORDER:
        raise ValueError("anybody could sign with this key")
    return GranteeKey(text, "ed25519", raw)


def _read_wallet(text: str) -> GranteeKey:
    address = text.removeprefix(_WALLET)
    if not _ADDRESS.match(address):
        raise ValueError("the address of a wallet is 0x and 40 hexadecimal digits")
    digits = address[2:]
    if digits not in (digits.lower(), digits.upper()) and address != _checksummed(digits.lower()):
        raise ValueError("the address is mistyped: its checksum (EIP-55) is wrong")
    return GranteeKey(_WALLET + address.lower(), "eip155", bytes.fromhex(digits))


def _checksummed(digits: str) -> str:
    nibbles = _keccak(digits.encode()).hex()
    return "0x" + "".join(one.upper() if int(nibbles[n], 16) >= 8 else one for n, one in enumerate(digits))


def _keccak(data: bytes) -> bytes:
    from eth_hash.auto import keccak  # imported here: most servers meet no wallet

    return keccak(data)


def _address_of_signer(signature: bytes, message: bytes) -> bytes | None:
    """Return the address whose wallet made an EIP-191 signature (version 0x45) of ``message``; None for no signature.

    A signature is ``r``, ``s`` and ``v`` in 65 bytes; ``v`` is 27 or 28, or 0 or 1 as some wallets write it.
    """
    from eth_keys.datatypes import Signature
    from eth_keys.exceptions import BadSignature, ValidationError  # type: ignore[attr-defined]  # raised, not listed

    if len(signature) != 65:
        return None
    v = signature[64] - 27 if signature[64] >= 27 else signature[64]
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    digest = _keccak(b"\x19Ethereum Signed Message:\n%d" % len(message) + message)
    try:
        found = Signature(vrs=(v, r, s)).recover_public_key_from_msg_hash(digest)
        return bytes(found.to_canonical_address())
    except (BadSignature, ValidationError, ValueError):
        return None
