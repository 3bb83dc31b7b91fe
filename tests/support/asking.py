"""Requests as the gate is asked about them, without a server."""

from __future__ import annotations

from collections.abc import Mapping

from retinue.web import Asked


def asked(headers: Mapping[str, str], method: str = "GET", url: str = "http://test/") -> Asked:
    """Return a request with these headers (lower-case names)."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return Asked(method, headers, raw, "127.0.0.1", lambda: url)
