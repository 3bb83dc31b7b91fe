"""What the headers of a request prove, without asking the database."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from uuid import UUID

import jwt

from retinue.database import Database
from retinue.identity import commands
from retinue.identity.issuer import ExternalClaims, Issuer
from retinue.identity.key_text import PREFIX, is_well_formed
from retinue.identity.keys import Pepper
from retinue.identity.signatures import Signatures, is_signed
from retinue.identity.tokens import ALGORITHM, Tokens
from retinue.kernel import Clock, Services, Unauthenticated
from retinue.web import Asked, Credential

_KEPT_HOMES = 10_000
_LONGEST = 8192
_MODEL_PATHS = "/v1/models/"
"""Where keys are taken from the headers that Anthropic's and Google's clients use, too."""


class Credentials:
    """Reads the ``Authorization`` header, or a signature; a service. ``claims["kind"]`` says what it found:

    - ``login``: an access token of this server; ``login`` and ``version`` say which login it belongs to.
    - ``external``: a token of the external issuer; ``issuer`` and ``subject``, perhaps ``email`` and ``name``.
    - ``key``: an API key; ``digest`` is what is stored of it, in hexadecimal.
    - ``grant``: a signed request; ``grant`` names the grant, ``grantee`` the key, ``nonce`` is good ``until`` then.
    """

    def __init__(self, services: Services, issuer: Issuer | None) -> None:
        self._services = services
        self._tokens = services.get(Tokens)
        self._pepper = services.get(Pepper)
        self._issuer = issuer
        clock = services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol
        self._signatures = Signatures(clock)
        self._homes: OrderedDict[str, UUID] = OrderedDict()

    async def identify(self, asked: Asked) -> Credential | None:
        """Return the credential in the headers, None when there is none.

        Raises:
            Unauthenticated: it is malformed, forged or expired.
            Unavailable: the external issuer's keys could not be fetched.
        """
        if is_signed(asked):
            return await self._signatures.verify(asked)
        header = asked.headers.get("authorization")
        if header is None:
            return self._of_model_client(asked)
        scheme, _, text = header.strip().partition(" ")
        text = text.strip()
        if scheme.lower() != "bearer" or not 0 < len(text) <= _LONGEST:
            raise Unauthenticated("Send the header `Authorization: Bearer <access token or API key>`.")
        if text.startswith(PREFIX):
            return self._key(text)
        if self._issuer is not None and _is_foreign(text):
            return _external(await self._issuer.verify(text))
        return self._login(text)

    def _of_model_client(self, asked: Asked) -> Credential | None:
        """Return the API key that a client of a model provider sends where it would send the provider's."""
        if not asked.path.startswith(_MODEL_PATHS):
            return None
        text = asked.headers.get("x-api-key") or asked.headers.get("x-goog-api-key")
        return self._key(text.strip()) if text else None

    async def home(self, credential: Credential) -> UUID:
        """Return the tenant where a credential that does not name one is at home; it never changes.

        A user whom an external issuer vouches for and who is new here gets an account and a personal tenant now.

        Raises:
            Unauthenticated: there is no such key, or no such grant for the key of a signature.
        """
        if credential.tenant_id is not None:
            return credential.tenant_id
        known = self._homes.get(credential.subject)
        if known is None:
            known = await self._find_home(credential)
            self._homes[credential.subject] = known
            if len(self._homes) > _KEPT_HOMES:
                self._homes.popitem(last=False)
        return known

    async def _find_home(self, credential: Credential) -> UUID:
        claims = credential.claims
        if claims["kind"] == "external":
            return (await commands.admit(self._services, _claimed(credential)))[1]
        if claims["kind"] == "grant":
            return await self._home_of_grant(UUID(claims["grant"]), claims["grantee"])
        async with self._services.get(Database).routing() as queries:
            found: UUID | None = await queries.fetchval("SELECT identity_key_home($1)", bytes.fromhex(claims["digest"]))
        if found is None:
            raise Unauthenticated("There is no such API key.")
        return found

    async def _home_of_grant(self, grant_id: UUID, grantee: str) -> UUID:
        async with self._services.get(Database).routing() as queries:
            found: UUID | None = await queries.fetchval("SELECT grants_home($1, $2)", grant_id, grantee)
        if found is None:
            raise Unauthenticated("There is no such grant for the key that signed this request.")
        return found

    def _login(self, text: str) -> Credential:
        claims = self._tokens.read_access(text)
        return Credential(
            "token",
            f"login:{claims.login_id}",
            claims.user_id,
            claims.home,
            claims.expires_at,
            {"kind": "login", "login": str(claims.login_id), "version": str(claims.version)},
        )

    def _key(self, text: str) -> Credential:
        if not is_well_formed(text):
            raise Unauthenticated("This API key is mistyped: its checksum is wrong.")
        digest = self._pepper.digest(text).hex()
        return Credential("key", f"key:{digest[:32]}", claims={"kind": "key", "digest": digest})


def _external(claims: ExternalClaims) -> Credential:
    name = hashlib.sha256(f"{claims.issuer}\n{claims.subject}".encode()).hexdigest()[:32]
    about = {"kind": "external", "issuer": claims.issuer, "subject": claims.subject}
    optional = {"email": claims.email, "name": claims.name}
    return Credential(
        "token",
        f"external:{name}",
        expires_at=claims.expires_at,
        claims=about | {key: value for key, value in optional.items() if value is not None},
    )


def _claimed(credential: Credential) -> ExternalClaims:
    claims, expires_at = credential.claims, credential.expires_at
    if expires_at is None:
        raise Unauthenticated("The token has no end.")
    return ExternalClaims(claims["issuer"], claims["subject"], claims.get("email"), claims.get("name"), expires_at)


def _is_foreign(text: str) -> bool:
    """Tell by the algorithm whose token it is. Each side then accepts its own algorithms only."""
    try:
        return jwt.get_unverified_header(text).get("alg") != ALGORITHM
    except jwt.PyJWTError:
        return False
