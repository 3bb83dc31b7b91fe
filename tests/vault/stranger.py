"""Readers written from docs/decisions/0016 and RFC 9180 alone: what a stranger would write, without the server."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def open_file(key: bytes, sealed: bytes, context: bytes, segment: int = 65_536) -> bytes:
    """Open a sealed file; raises InvalidTag when it was changed."""
    salt, prefix = sealed[1:33], sealed[33:40]
    own = AESGCM(expand(extract(salt, key), context, 32))
    plain = b""
    begins = range(0, len(sealed), segment)
    for number, begin in enumerate(begins):
        last = b"\x01" if number == len(begins) - 1 else b"\x00"
        body = sealed[begin : begin + segment][40 if number == 0 else 0 :]
        plain += own.decrypt(prefix + number.to_bytes(4, "big") + last, body, None)
    return plain


def open_hpke(private: bytes, sealed: bytes, info: bytes, *, aad: bytes = b"", aead: int = 2, bits: int = 256) -> bytes:
    """Open a message of HPKE: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-GCM (RFC 9180)."""
    enc, body = sealed[:32], sealed[32:]
    key = X25519PrivateKey.from_private_bytes(private)
    kem = b"KEM" + (32).to_bytes(2, "big")
    dh = key.exchange(X25519PublicKey.from_public_bytes(enc))
    shared = _labeled_expand(
        _labeled_extract(b"", kem, b"eae_prk", dh), kem, b"shared_secret", enc + key.public_key().public_bytes_raw(), 32
    )
    suite = b"HPKE" + (32).to_bytes(2, "big") + (1).to_bytes(2, "big") + aead.to_bytes(2, "big")
    schedule = (
        b"\x00" + _labeled_extract(b"", suite, b"psk_id_hash", b"") + _labeled_extract(b"", suite, b"info_hash", info)
    )
    secret = _labeled_extract(shared, suite, b"secret", b"")
    opener = AESGCM(_labeled_expand(secret, suite, b"key", schedule, bits // 8))
    return opener.decrypt(_labeled_expand(secret, suite, b"base_nonce", schedule, 12), body, aad)


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869)."""
    return hmac.digest(salt or bytes(32), secret, hashlib.sha256)


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869)."""
    out, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), hashlib.sha256)
        out += block
    return out[:length]


def _labeled_extract(salt: bytes, suite: bytes, label: bytes, secret: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + secret)


def _labeled_expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)
