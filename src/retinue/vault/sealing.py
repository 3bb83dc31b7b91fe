"""Authenticated encryption of small values: AES-256-GCM (NIST SP 800-38D) with the context as additional data."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class SealBroken(Exception):
    """The sealed bytes were changed, moved to another context, or belong to another key."""


def new_key() -> bytes:
    """Return a fresh random key of 256 bits."""
    return os.urandom(KEY_BYTES)


def encrypt(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Encrypt ``plaintext`` so that it opens only under the same ``key`` and ``context``.

    The result is a format byte, a random nonce of 96 bits, the ciphertext and its tag. A random nonce is safe for
    2**32 values under one key; a tenant's key seals its secrets, and one data key for each file.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def decrypt(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """Open what :func:`encrypt` made.

    Raises:
        SealBroken: it cannot be opened; nothing of the content is known.
    """
    if sealed[:1] != _FORMAT:
        raise SealBroken("the sealed value has an unknown format")
    nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, body, context)
    except (InvalidTag, ValueError) as error:
        raise SealBroken("the sealed value does not open with this key in this place") from error


def derive(key: bytes, purpose: str) -> bytes:
    """Return the key of 256 bits that ``key`` has for ``purpose`` (HKDF with SHA-256, RFC 5869).

    Keys of different purposes tell nothing about each other or about ``key``.
    """
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"retinue/{purpose}".encode()).derive(key)
