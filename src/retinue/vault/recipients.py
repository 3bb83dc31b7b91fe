"""Sealing a small value to somebody's public key: HPKE (RFC 9180), base mode, as one message.

The suite is DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. What comes out is the encapsulated key (32 bytes)
and the ciphertext with its tag. Anybody can seal to a public key: it tells nothing about who sealed.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from retinue.vault.sealing import SealBroken

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def new_recipient() -> tuple[bytes, bytes]:
    """Return a fresh private key and its public key, both raw X25519 keys of 32 bytes (RFC 7748)."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def usable_recipient(public: bytes) -> bool:
    """Tell whether something can be sealed to a public key: it has 32 bytes and is not a point of low order."""
    try:
        seal_to(public, b"", b"")
    except ValueError:
        return False
    return True


def seal_to(public: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Seal a value so that only the holder of the private key opens it, and only with the same ``context``.

    Args:
        public: a raw X25519 public key.
        plaintext: the value, such as a data key.
        context: what the value is for; HPKE's ``info``. It is not stored.

    Raises:
        ValueError: it is not a usable public key.
    """
    return _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), context)


def open_sealed(private: bytes, sealed: bytes, context: bytes) -> bytes:
    """Open what :func:`seal_to` made.

    Args:
        private: the raw X25519 private key.
        sealed: the sealed value.
        context: the same as when it was sealed.

    Raises:
        SealBroken: it was changed, or belongs to another key or context.
        ValueError: it is not a private key.
    """
    key = X25519PrivateKey.from_private_bytes(private)
    try:
        return _SUITE.decrypt(sealed, key, context)
    except (InvalidTag, ValueError) as error:
        raise SealBroken("the sealed value does not open with this key in this place") from error
