"""Signed requests: HTTP message signatures (RFC 9421) of applications that act by a grant.

The library reads the structured fields, resolves what is covered and builds the signature base. What is asked of a
signature here, and the kinds of keys, are this file's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import http_sf
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    VerifyResult,
)

from retinue.identity.grantees import GranteeKey
from retinue.kernel import Clock, Unauthenticated, Unavailable
from retinue.web import Asked, Credential, content_digests

GRANT_HEADER = "retinue-grant"
LABEL = "retinue"
LONGEST_LIFE = 300
"""Seconds from ``created`` to ``expires``."""
SKEW = 10
"""Seconds by which the client's clock may be ahead of this one."""
NONCE_LENGTHS = range(16, 129)
LONGEST = {"signature-input": 2048, "signature": 1024, GRANT_HEADER: 36, "content-digest": 512}
MOST_COMPONENTS = 32
_MOST_WAITING = 100

_REQUIRED = ("@method", "@target-uri", GRANT_HEADER)
_MARKS = frozenset({b"signature", b"signature-input", GRANT_HEADER.encode()})
_SINGLE = (*LONGEST, "host")
_MISMATCH = (
    "it does not fit the request and the key. The method, the URL, the grant, the body's digest and all other headers "
    "that it covers must be those that were signed"
)


class _Refused(InvalidSignature):
    """A signature that is not accepted; the text says why."""


@dataclass(frozen=True, slots=True)
class _Fields:
    lines: Sequence[tuple[str, str]]

    def items(self) -> Iterable[tuple[str, str]]:
        return self.lines


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as the library reads it."""

    method: str
    url: str
    headers: _Fields


class _ByKey(HTTPSignatureAlgorithm):
    """The algorithm that the key itself names."""

    algorithm_id = "ed25519"  # the only one of the two that RFC 9421 has a name for

    def __init__(self, public_key: GranteeKey, private_key: None = None) -> None:
        self._key = public_key

    def verify(self, signature: bytes, message: bytes) -> None:
        if not self._key.verify(signature, message):
            raise _Refused(_MISMATCH)


class _FromKeyId(HTTPSignatureKeyResolver):
    """The key is in the ``keyid``; whether it has a grant, the database says later."""

    def resolve_public_key(self, key_id: str) -> GranteeKey:
        try:
            return GranteeKey.parse(key_id)
        except ValueError as error:
            raise _Refused(f"keyid: {error}") from None


class _Verifier(HTTPMessageVerifier):
    """The library's verifier with the server's own clock and demands."""

    def __init__(self, now: float, *, has_body: bool) -> None:
        super().__init__(signature_algorithm=_ByKey, key_resolver=_FromKeyId())
        self._now = now
        self._has_body = has_body

    def validate_created_and_expires(self, sig_input: Any, max_age: object = None) -> None:
        """Check all parameters and what is covered; the library calls this before it looks at anything else."""
        _check_times(sig_input.params, self._now)
        _check_names(sig_input.params)
        if len(sig_input) > MOST_COMPONENTS:
            raise _Refused(f"it covers more than {MOST_COMPONENTS} components")
        covered = {item.value for item in sig_input if not item.params}
        wanted = [*_REQUIRED, "content-digest"] if self._has_body else _REQUIRED
        missing = [f'"{name}"' for name in wanted if name not in covered]
        if missing:
            raise _Refused(f"it must cover {' '.join(missing)} too")


def _check_times(params: Any, now: float) -> None:
    created, expires = params.get("created"), params.get("expires")
    if type(created) is not int or type(expires) is not int:
        raise _Refused("it must say when it was `created` and when it `expires`, in seconds since 1970")
    if created > now + SKEW:
        raise _Refused(f"it was created in the future; it is {math.floor(now)} here")
    if expires <= now:
        raise _Refused(f"it has expired; it is {math.floor(now)} here")
    if not 0 < expires - created <= LONGEST_LIFE:
        raise _Refused(f"it may live for {LONGEST_LIFE} seconds at most, from `created` to `expires`")


def _check_names(params: Any) -> None:
    nonce, keyid = params.get("nonce"), params.get("keyid")
    if not isinstance(nonce, str) or len(nonce) not in NONCE_LENGTHS:
        raise _Refused(f"it must have a `nonce` of {NONCE_LENGTHS.start} to {NONCE_LENGTHS.stop - 1} characters")
    if not isinstance(keyid, str):
        raise _Refused("it must name its key as `keyid`")
    if "alg" in params and not keyid.startswith("ed25519:"):
        raise _Refused("`alg` has no name for signatures of wallets; leave it out")


def is_signed(asked: Asked) -> bool:
    """Return whether a request claims to be signed."""
    return any(name in _MARKS for name, _ in asked.raw)


class Signatures:
    """Checks signed requests."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # A wallet's signature takes 8 ms of pure Python: two at a time, and never on the loop.
        self._slow = asyncio.Semaphore(2)
        self._waiting = 0

    async def verify(self, asked: Asked) -> Credential:
        """Return the credential of a signed request.

        Raises:
            Unauthenticated: it is not signed as it must be; the detail says what is wrong.
            Unavailable: too many wallets' signatures are being checked.
        """
        if "authorization" in asked.headers:
            raise _refusal("the request has an Authorization header besides; send one of the two")
        fields = {name: _single(asked, name) for name in _SINGLE}
        grant_id = _grant_id(fields[GRANT_HEADER])
        try:
            message = _Message(asked.method, asked.target(), _Fields(_chosen(asked, fields)))
            verifier = _Verifier(self._clock.now().timestamp(), has_body=asked.has_body)
            if "eip155:" in fields["signature-input"]:
                (result,) = await self._in_thread(verifier, message)
            else:
                (result,) = verifier.verify(message, max_age=None)
        except HTTPMessageSignaturesException as error:
            raise _refusal(str(error)[:300] or _MISMATCH) from None
        except (ValueError, TypeError, LookupError, RecursionError):
            raise _refusal("its headers cannot be read as structured fields (RFC 9651)") from None
        digest = fields["content-digest"] if '"content-digest"' in result.covered_components else None
        if digest is not None:
            _check_digest(digest)
        return _credential(grant_id, result.parameters, digest)

    async def _in_thread(self, verifier: _Verifier, message: _Message) -> list[VerifyResult]:
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("Too many wallets sign at once. Try again in a moment.", retry_after=2)
        self._waiting += 1
        try:
            async with self._slow:
                return await asyncio.to_thread(verifier.verify, message, max_age=None)
        finally:
            self._waiting -= 1


def _refusal(why: str) -> Unauthenticated:
    return Unauthenticated(f"The signature of this request is not accepted: {why.rstrip('.')}.")


def _single(asked: Asked, name: str) -> str:
    """Return a header that must be there once, or not at all: its value is what the signature speaks of."""
    found = asked.all(name)
    if len(found) > 1:
        raise _refusal(f"the header {name} was sent {len(found)} times")
    if not found:
        if name == "content-digest":
            return ""
        raise _refusal(f"the header {name} is missing")
    if len(found[0]) > LONGEST.get(name, 512):
        raise _refusal(f"the header {name} is too long")
    if not found[0].isascii() or not found[0].isprintable():
        raise _refusal(f"the header {name} holds other characters than printable ASCII")
    return found[0]


def _grant_id(text: str) -> UUID:
    try:
        found = UUID(text)
    except ValueError:
        raise _refusal("the header retinue-grant is no id of a grant") from None
    if str(found) != text:
        raise _refusal("the header retinue-grant must be the id in lower case, with hyphens")
    return found


def _chosen(asked: Asked, fields: dict[str, str]) -> list[tuple[str, str]]:
    """Return the headers with one signature: the one labelled ``retinue``, or the first. Proxies may add theirs."""
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in asked.raw]
    if fields["signature-input"].count("=(") <= 1:
        return lines
    inputs = _dictionary(fields["signature-input"])
    label = LABEL if LABEL in inputs else next(iter(inputs))
    signatures = _dictionary(fields["signature"])
    if label not in signatures:
        raise _Refused(f"there is no signature labelled {label}")
    one = {"signature-input": http_sf.ser({label: inputs[label]}), "signature": http_sf.ser({label: signatures[label]})}
    return [(name, one.get(name, value)) for name, value in lines]


def _dictionary(value: str) -> dict[str, Any]:
    def refuse(key: str, context: str) -> None:
        if context == "dictionary":
            raise _Refused(f"the label {key} is there twice")

    found: Any = http_sf.parse(value.encode(), tltype="dictionary", on_duplicate_key=refuse)
    return dict(found)


def _check_digest(value: str) -> None:
    try:
        content_digests(value)
    except ValueError as error:
        raise _refusal(f"Content-Digest: {error}") from None


def _credential(grant_id: UUID, params: Any, digest: str | None) -> Credential:
    grantee = GranteeKey.parse(params["keyid"]).text
    return Credential(
        "signature",
        f"grant:{grant_id}:{grantee}",  # with the key: anybody can name anybody's grant
        claims={
            "kind": "grant",
            "grant": str(grant_id),
            "grantee": grantee,
            "nonce": params["nonce"],
            "until": datetime.fromtimestamp(params["expires"], UTC).isoformat(),
        },
        digest=digest or "",
    )
