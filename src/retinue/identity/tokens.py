"""Access and refresh tokens: JSON Web Tokens (RFC 7519, RFC 9068) signed by this server with HS256, nothing else.

The two kinds have different keys and audiences, so one never passes for the other. Times are checked against the
server's clock object, not the library's, so that tests can move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

from retinue.kernel import Clock, Settings, Unauthenticated, new_id
from retinue.vault import Vault

ALGORITHM = "HS256"
_ISSUER = "retinue"
_ACCESS, _REFRESH = "retinue:access", "retinue:refresh"
_OPTIONS: Any = {
    "require": ["iss", "aud", "exp", "sub", "sid"],
    "verify_exp": False,  # done below, by the server's clock
    "verify_iat": False,
    "verify_nbf": False,
}


@dataclass(frozen=True, slots=True)
class LoginState:
    """A login as tokens speak of it: who, where at home, which login, which session version, which generation."""

    user_id: UUID
    home: UUID
    login_id: UUID
    version: int
    generation: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What a valid access token says; whether the login still lives, only the database knows."""

    user_id: UUID
    home: UUID
    login_id: UUID
    version: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """What a valid refresh token says: the n-th of a login's family."""

    user_id: UUID
    home: UUID
    login_id: UUID
    generation: int


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a client gets at login and at refresh; ``expires_in`` is the access token's, in seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


class Tokens:
    """Signs and reads the server's own tokens; a service of the house."""

    def __init__(self, vault: Vault, settings: Settings, clock: Clock) -> None:
        self._access_key = vault.derive("identity/access-token")
        self._refresh_key = vault.derive("identity/refresh-token")
        self._lifetime = timedelta(seconds=settings.access_token_seconds)
        self._clock = clock

    def issue(self, login: LoginState) -> TokenPair:
        """Return the tokens of a login's present generation."""
        now = self._clock.now()
        expires = min(now + self._lifetime, login.expires_at)
        both = {"iss": _ISSUER, "sub": str(login.user_id), "tid": str(login.home), "sid": str(login.login_id)}
        access = both | {
            "aud": _ACCESS,
            "sv": login.version,
            "jti": new_id().hex,
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
        }
        refresh = both | {"aud": _REFRESH, "gen": login.generation, "exp": int(login.expires_at.timestamp())}
        return TokenPair(
            jwt.encode(access, self._access_key, ALGORITHM, {"typ": "at+jwt"}),
            jwt.encode(refresh, self._refresh_key, ALGORITHM),
            max(0, int((expires - now).total_seconds())),
        )

    def read_access(self, token: str) -> AccessClaims:
        """Check an access token's signature, issuer, audience and time.

        Raises:
            Unauthenticated: it is malformed, forged, expired, or another kind of token.
        """
        claims = self._read(token, self._access_key, _ACCESS)
        try:
            return AccessClaims(
                UUID(claims["sub"]), UUID(claims["tid"]), UUID(claims["sid"]), int(claims["sv"]), self._end(claims)
            )
        except (KeyError, TypeError, ValueError):
            raise _refused() from None

    def read_refresh(self, token: str) -> RefreshClaims:
        """Check a refresh token; otherwise like :meth:`read_access`."""
        claims = self._read(token, self._refresh_key, _REFRESH)
        try:
            self._end(claims)
            return RefreshClaims(UUID(claims["sub"]), UUID(claims["tid"]), UUID(claims["sid"]), int(claims["gen"]))
        except (KeyError, TypeError, ValueError):
            raise _refused() from None

    def _read(self, token: str, key: bytes, audience: str) -> dict[str, Any]:
        try:
            return jwt.decode(token, key, [ALGORITHM], _OPTIONS, audience=audience, issuer=_ISSUER)
        except (jwt.PyJWTError, ValueError):
            raise _refused() from None

    def _end(self, claims: dict[str, Any]) -> datetime:
        end = datetime.fromtimestamp(int(claims["exp"]), UTC)
        if end <= self._clock.now():
            raise Unauthenticated("The token has expired. Refresh it or sign in again.")
        return end


def _refused() -> Unauthenticated:
    return Unauthenticated("The token is not valid. Sign in again.")
