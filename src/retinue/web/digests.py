"""``Content-Digest`` (RFC 9530): holds a body against the digest of it that a signature covers, while it is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import http_sf

from retinue.kernel import Unauthenticated
from retinue.web.gate import Credential

_ALGORITHMS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


def content_digests(value: str) -> Mapping[str, bytes]:
    """Read a ``Content-Digest``: algorithm -> digest.

    Raises:
        ValueError: it is malformed, or names an algorithm that is not checked here.
    """

    def refuse(key: str, context: str) -> None:
        raise ValueError(f"{key} is there twice")

    try:
        members: Any = http_sf.parse(value.encode("ascii"), tltype="dictionary", on_duplicate_key=refuse)
    except (TypeError, LookupError, RecursionError):
        raise ValueError("it is no dictionary of byte sequences") from None
    found = {}
    for name, member in members.items():
        if name not in _ALGORITHMS:
            raise ValueError(f"send sha-256 or sha-512, not {str(name)[:50]}")
        digest = member[0] if isinstance(member, tuple) else None
        if not isinstance(digest, bytes) or len(digest) != _ALGORITHMS[name]().digest_size:
            raise ValueError(f"this is no {name} digest")
        found[name] = digest
    if not found:
        raise ValueError("it names no digest")
    return found


class BodyCheck:
    """Holds a signed request's body against its digest. A signature without one stands for an empty body."""

    def __init__(self, digest: str) -> None:
        self._wanted = content_digests(digest) if digest else {"sha-256": hashlib.sha256().digest()}
        self._hashes = {name: _ALGORITHMS[name]() for name in self._wanted}

    def update(self, chunk: bytes) -> None:
        """Take the next piece of the body."""
        for one in self._hashes.values():
            one.update(chunk)

    def finish(self) -> None:
        """Judge the body, all of which was taken.

        Raises:
            Unauthenticated: it is not the body that was signed.
        """
        for name, wanted in self._wanted.items():
            if not hmac.compare_digest(self._hashes[name].digest(), wanted):
                raise Unauthenticated(
                    "The signature of this request is not accepted: the body is not the one of Content-Digest."
                )


def body_check(credential: Credential | None) -> BodyCheck | None:
    """Return the check that a caller's body has to pass; None when it is not signed."""
    return None if credential is None or credential.digest is None else BodyCheck(credential.digest)
