"""Tokens of an external issuer (OpenID Connect or plain JWT), checked with the keys it publishes.

The algorithms are a fixed list of asymmetric ones: never what the token asks for (RFC 8725, sections 3.1 and 3.2).
An unknown key id leads to one refetch of the key set, at most every half minute, so that a flood of made-up key ids
is no flood of requests to the issuer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt

from retinue.kernel import Clock, Settings, Unauthenticated, Unavailable

log = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
FETCH_AGAIN_AFTER = timedelta(hours=1)
KEEP_AT_MOST = timedelta(days=1)
REFETCH_PAUSE = timedelta(seconds=30)
_LEEWAY = timedelta(seconds=30)
_LARGEST = 1_048_576
_OPTIONS: Any = {
    "require": ["iss", "aud", "exp", "sub"],
    "verify_exp": False,  # done below, by the server's clock
    "verify_nbf": False,
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class ExternalClaims:
    """Who the issuer says is asking. ``email`` only when the issuer says that it is verified."""

    issuer: str
    subject: str
    email: str | None
    name: str | None
    expires_at: datetime


class IssuerKeys:
    """The key set of one issuer, fetched when needed and kept for a while."""

    def __init__(
        self, issuer: str, jwks_url: str | None, clock: Clock, client: Callable[[], httpx.AsyncClient]
    ) -> None:
        self._issuer = issuer
        self._url = jwks_url
        self._clock = clock
        self._client = client
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> jwt.PyJWK:
        """Return the key with this id; without an id, the only key there is.

        Raises:
            Unauthenticated: the issuer has no such key.
            Unavailable: no keys are known and the issuer cannot be reached.
        """
        if not self._is_fresh() or self._pick(kid) is None:
            await self._refetch(kid)
        key = self._pick(kid)
        if key is not None and self._age() < KEEP_AT_MOST:
            return key
        if self._fetched_at is None or self._age() >= KEEP_AT_MOST:
            raise Unavailable("The keys of the token's issuer could not be fetched.", retry_after=30)
        raise Unauthenticated("The token is signed with a key that its issuer does not publish.")

    def _pick(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid) if kid is not None else None

    def _age(self) -> timedelta:
        return self._clock.now() - self._fetched_at if self._fetched_at else timedelta.max

    def _is_fresh(self) -> bool:
        return self._age() < FETCH_AGAIN_AFTER

    async def _refetch(self, kid: str | None) -> None:
        async with self._lock:
            if self._is_fresh() and self._pick(kid) is not None:
                return  # somebody else fetched it while this one waited
            now = self._clock.now()
            if self._tried_at is not None and now - self._tried_at < REFETCH_PAUSE:
                return
            self._tried_at = now
            try:
                self._keys = await self._fetch()
                self._fetched_at = now
            except (httpx.HTTPError, httpx.InvalidURL, KeyError, ValueError, jwt.PyJWTError) as error:
                log.warning("the key set of %s could not be fetched: %s", self._issuer, type(error).__name__)

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        async with self._client() as client:
            if self._url is None:
                found = await _get_json(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != self._issuer:
                    raise ValueError("the discovery document is another issuer's")
                self._url = str(found["jwks_uri"])
            published = jwt.PyJWKSet.from_dict(await _get_json(client, self._url))
        usable = [key for key in published.keys if _is_usable(key)]
        if not usable:
            raise ValueError("the key set has no usable key")
        return {key.key_id if key.key_id is not None else f"#{n}": key for n, key in enumerate(usable)}


class Issuer:
    """Checks the tokens of one external issuer; a service of the house when one is configured."""

    def __init__(self, issuer: str, audience: str, keys: IssuerKeys, clock: Clock) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock) -> Issuer | None:
        """Return the configured issuer, or None.

        Raises:
            ValueError: an issuer without an audience; it would let in tokens made for other programs.
        """
        if not settings.oidc_issuer:
            return None
        if not settings.oidc_audience:
            raise ValueError("RETINUE_OIDC_ISSUER needs RETINUE_OIDC_AUDIENCE: the audience its tokens name.")
        keys = IssuerKeys(settings.oidc_issuer, settings.oidc_jwks_url, clock, _client)
        return cls(settings.oidc_issuer, settings.oidc_audience, keys, clock)

    async def verify(self, token: str) -> ExternalClaims:
        """Check the signature, issuer, audience and times of a token.

        Raises:
            Unauthenticated: it is not valid.
            Unavailable: the issuer's keys could not be fetched.
        """
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:
                raise _refused()
            key = await self._keys.find(header.get("kid"))
            claims = jwt.decode(token, key, list(ALGORITHMS), _OPTIONS, audience=self._audience, issuer=self._issuer)
            return self._checked(claims)
        except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
            raise _refused() from None

    def _checked(self, claims: dict[str, Any]) -> ExternalClaims:
        now = self._clock.now()
        end = datetime.fromtimestamp(int(claims["exp"]), UTC)
        if end + _LEEWAY <= now:
            raise Unauthenticated("The token has expired. Get a new one from its issuer.")
        if "nbf" in claims and datetime.fromtimestamp(int(claims["nbf"]), UTC) - _LEEWAY > now:
            raise Unauthenticated("The token is not valid yet.")
        subject = str(claims["sub"])
        if not 0 < len(subject.encode()) <= 255 or "\0" in subject:  # encode() refuses lone surrogates
            raise _refused()
        email = claims.get("email") if claims.get("email_verified") is True else None
        name = claims.get("name") or claims.get("preferred_username")
        return ExternalClaims(
            self._issuer,
            subject,
            email if isinstance(email, str) else None,
            name if isinstance(name, str) else None,
            end,
        )


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=10, follow_redirects=False)


def _is_usable(key: jwt.PyJWK) -> bool:
    """Only public keys for signatures; a symmetric key in a public set would let anybody sign."""
    return key.public_key_use in (None, "sig") and key.algorithm_name in ALGORITHMS


async def _get_json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as response:
        response.raise_for_status()
        if response.is_redirect:
            raise ValueError("the issuer answers with a redirect")
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _LARGEST:
                raise ValueError("the issuer's document is too large")
    found = httpx.Response(200, content=body).json()
    if not isinstance(found, dict):
        raise ValueError("the issuer's document is no JSON object")
    return found


def _refused() -> Unauthenticated:
    return Unauthenticated("The token is not valid. Get a new one from its issuer.")
