"""HTTP message signatures (RFC 9421) for requests by a grant.

Covered are the method, the whole URL, the grant, the body's digest (RFC 9530), and of the other headers all that
change what a request means. A signature is good for one request, and for a minute.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from uuid import UUID

import httpx

from retinue_client.keys import Signer

LIFE = 60
"""Seconds from ``created`` to ``expires``; a server accepts at most 300."""

LABEL = "retinue"

MEANINGFUL = (
    "content-type",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "if-range",
    "range",
    "tus-resumable",
    "upload-checksum",
    "upload-length",
    "upload-metadata",
    "upload-offset",
)
"""Headers that are covered when they are there."""


def content_digest(body: bytes) -> str:
    """Return the ``Content-Digest`` of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def signed(
    signer: Signer,
    grant_id: UUID | str,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    now: float | None = None,
    life: int = LIFE,
    nonce: str | None = None,
) -> dict[str, str]:
    """Sign a request and return the headers to add to it.

    Args:
        signer: who signs.
        grant_id: the grant by which it asks.
        method: of the request, in upper case.
        url: of the request, complete and encoded, as it is sent.
        headers: those of the request; must hold ``Content-Digest`` (see :func:`content_digest`) when there is a body.
        now: the time in seconds since 1970; the machine's by default.
        life: seconds until the signature expires.
        nonce: 16 to 128 characters that no other request has; random by default.
    """
    there = {name.lower(): value.strip() for name, value in (headers or {}).items()} | {"retinue-grant": str(grant_id)}
    names = ["retinue-grant", *(name for name in ("content-digest", *MEANINGFUL) if name in there)]
    components = [("@method", method), ("@target-uri", url), *((name, there[name]) for name in names)]
    created = int(time.time() if now is None else now)
    covered = " ".join(_quoted(name) for name, _ in components)
    parameters = (
        f"({covered});created={created};expires={created + life}"
        f";nonce={_quoted(nonce or secrets.token_urlsafe(18))};keyid={_quoted(signer.keyid)}"
    )
    lines = [f"{_quoted(name)}: {value}" for name, value in components]
    base = "\n".join([*lines, f'"@signature-params": {parameters}'])
    signature = base64.b64encode(signer.sign(base.encode("ascii"))).decode()
    return {
        "Retinue-Grant": str(grant_id),
        "Signature-Input": f"{LABEL}={parameters}",
        "Signature": f"{LABEL}=:{signature}:",
    }


def _quoted(text: str) -> str:
    """Write a text as a string of structured fields (RFC 9651)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class SignedRequests(httpx.Auth):
    """Signs the requests of an ``httpx`` client: ``httpx.AsyncClient(auth=SignedRequests(key, grant_id))``.

    A body that is sent as a stream needs its ``Content-Digest`` in the headers of the request: it comes before the
    body, so it has to be known by then.
    """

    def __init__(self, signer: Signer, grant_id: UUID | str, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._grant_id = str(grant_id)
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign the request.

        Raises:
            ValueError: its body is a stream without a ``Content-Digest``.
        """
        if "content-digest" not in request.headers and has_body(request):
            try:
                body = request.content
            except httpx.RequestNotRead:
                raise ValueError("give the Content-Digest of a body that is sent as a stream") from None
            request.headers["Content-Digest"] = content_digest(body)
        headers = signed(
            self._signer, self._grant_id, request.method, url_of(request), request.headers, now=self._clock()
        )
        request.headers.update(headers)
        yield request


def has_body(request: httpx.Request) -> bool:
    """Return whether a request carries a body."""
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"


def url_of(request: httpx.Request) -> str:
    """Return the URL of a request as the server sees it: without a fragment, the path and query as they are sent."""
    url = request.url
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii')}"
