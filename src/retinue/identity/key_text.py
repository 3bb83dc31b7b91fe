"""The text of an API key: ``rtn_<env>_``, 30 random base62 digits, and 6 of a checksum.

The prefix lets secret scanners find leaked keys; the checksum tells a mistyped key from a revoked one without the
database. Only a keyed hash of it is stored.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM, _CHECK = 30, 6
_SHAPE = re.compile(rf"rtn_[a-z0-9]{{1,16}}_[0-9A-Za-z]{{{_RANDOM + _CHECK}}}\Z", re.ASCII)

PREFIX = "rtn_"


def new_key_text(environment: str) -> str:
    """Return a fresh key; its random part has 178 bits."""
    body = f"{PREFIX}{environment}_" + "".join(secrets.choice(_DIGITS) for _ in range(_RANDOM))
    return body + _checksum(body)


def is_well_formed(text: str) -> bool:
    """Return whether the text has a key's shape and the right checksum."""
    return bool(_SHAPE.match(text)) and hmac.compare_digest(_checksum(text[:-_CHECK]), text[-_CHECK:])


def digest(text: str, pepper: bytes) -> bytes:
    """Return what is stored of a key: HMAC-SHA256 (RFC 2104) under the server's pepper."""
    return hmac.digest(pepper, text.encode(), hashlib.sha256)


def hint(text: str) -> str:
    """Return the part of a key by which its owner recognises it: the prefix and four random digits."""
    return text[: text.index("_", len(PREFIX)) + 5]


def _checksum(body: str) -> str:
    value, out = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        value, digit = divmod(value, len(_DIGITS))
        out = _DIGITS[digit] + out
    return out
