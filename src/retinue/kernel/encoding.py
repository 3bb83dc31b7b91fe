"""Bytes as text: base64url without padding (RFC 4648, section 5), as keys, cursors and sealed files have them."""

from __future__ import annotations

import base64


def base64url(raw: bytes) -> str:
    """Return the text of some bytes."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Return the bytes of a text.

    Raises:
        ValueError: it is no base64url.
    """
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
