"""Tokens of an external issuer, which is a real HTTP server here."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from retinue.database import Database
from retinue.identity.issuer import Issuer
from retinue.kernel import Settings, SystemClock
from retinue.ledger import Feed
from tests.support.site import PASSWORD, Site, bearer, open_site

AUDIENCE = "retinue-tests"


class Provider:
    """An issuer on a socket of its own: a discovery document and a key set."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"first": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.requests: list[str] = []
        self.status = 200
        self.extra_keys: list[dict[str, Any]] = []
        self.url = ""
        self.named_issuer: str | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        self.requests.append(path)
        found: dict[str, Any] = {"keys": [*(self._public(kid) for kid in self.keys), *self.extra_keys]}
        if path.endswith("openid-configuration"):
            found = {"issuer": self.named_issuer or self.url, "jwks_uri": f"{self.url}/keys"}
        body = json.dumps(found).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (self.status, len(body), body)
        )
        await writer.drain()
        writer.close()

    def _public(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid]
        if isinstance(key, rsa.RSAPrivateKey):
            found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
        else:
            found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
        return {**found, "kid": kid, "use": "sig"}

    def token(self, kid: str = "first", algorithm: str = "RS256", key: Any = None, **changes: Any) -> str:
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "exp": int(time.time()) + 600,
            "email": "ann@corp.example",
            "email_verified": True,
            "name": "Ann",
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key or self.keys[kid], algorithm, {"kid": kid})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found = Provider()
    await found.open()
    yield found
    await found.close()


@asynccontextmanager
async def joined(database: Database, data: Path, provider: Provider, **settings: Any) -> AsyncIterator[Site]:
    chosen = {"oidc_issuer": provider.url, "oidc_audience": AUDIENCE} | settings
    async with open_site(database, data, **chosen) as found:
        yield found


@pytest.fixture
async def site(database: Database, data_folder: Path, provider: Provider) -> AsyncIterator[Site]:
    async with joined(database, data_folder, provider) as found:
        yield found


def signed(claims: dict[str, Any], secret: bytes, algorithm: str, kid: str = "first") -> str:
    """Sign with a secret, whatever it is; the library would refuse such a mistake."""
    parts = [json.dumps(one).encode() for one in ({"alg": algorithm, "kid": kid}, claims)]
    text = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = hmac.digest(secret, text, {"HS256": "sha256", "HS512": "sha512"}[algorithm]) if secret else b""
    return (text + b"." + urlsafe_b64encode(mac).rstrip(b"=")).decode()


async def profile(site: Site, token: str) -> tuple[int, dict[str, Any]]:
    response = await site.client.get("/v1/my/profile", headers=bearer(token))
    return response.status_code, response.json()


async def test_a_user_is_made_at_first_sight_and_only_then(site: Site, provider: Provider) -> None:
    email = f"{uuid4().hex}@corp.example"
    status, first = await profile(site, provider.token(sub="u1", email=email))
    assert status == 200
    assert (first["email"], first["name"]) == (email, "Ann")
    assert [(one["role"], one["personal"]) for one in first["tenants"]] == [("admin", True)]
    assert await profile(site, provider.token(sub="u1", email=email)) == (200, first)
    _, other = await profile(site, provider.token(sub="u2", email=None))
    assert other["user_id"] != first["user_id"]
    types = [one.type for one in await site.services.get(Feed).read(first["tenants"][0]["tenant_id"], 0)]
    assert types == ["user.signed_up", "tenant.created", "member.added"]


async def test_first_requests_at_once_make_one_user(site: Site, provider: Provider) -> None:
    token = provider.token(sub=uuid4().hex, email=None)
    answers = await asyncio.gather(*(profile(site, token) for _ in range(6)))
    assert {status for status, _ in answers} == {200}
    assert len({found["user_id"] for _, found in answers}) == 1


async def test_the_user_is_the_same_after_a_restart(
    site: Site, provider: Provider, database: Database, data_folder: Path
) -> None:
    token = provider.token(sub=uuid4().hex, email=None)
    _, before = await profile(site, token)
    async with joined(database, data_folder, provider) as again:
        assert await profile(again, token) == (200, before)


async def test_a_newcomer_who_names_a_tenant_finds_nothing(site: Site, provider: Provider) -> None:
    headers = bearer(provider.token(sub=uuid4().hex, email=None)) | {"Retinue-Tenant": str(uuid4())}
    assert (await site.client.get("/v1/my/profile", headers=headers)).status_code == 404


async def test_an_account_is_never_taken_over_by_its_e_mail(site: Site, provider: Provider) -> None:
    account = await site.sign_up()
    status, found = await profile(site, provider.token(sub=uuid4().hex, email=account.email))
    assert status == 200
    assert found["user_id"] != str(account.user_id)
    assert found["email"] is None


async def test_an_unverified_e_mail_is_not_taken(site: Site, provider: Provider) -> None:
    for verified in (False, None, "true"):
        token = provider.token(sub=uuid4().hex, email=f"{uuid4().hex}@corp.example", email_verified=verified)
        assert (await profile(site, token))[1]["email"] is None


async def test_no_password_opens_an_external_account(site: Site, provider: Provider) -> None:
    email = f"{uuid4().hex}@corp.example"
    token = provider.token(sub=uuid4().hex, email=email)
    assert (await profile(site, token))[0] == 200
    for password in ("", PASSWORD):
        response = await site.client.post("/v1/auth/login", json={"email": email, "password": password})
        assert response.status_code == 401
    assert (await site.client.post("/v1/auth/logout", headers=bearer(token))).status_code == 409


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "another program"},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\x00b"},
        {"exp": None},
        {"exp": 1},
        {"exp": "soon"},
        {"nbf": int(time.time()) + 3600},
        {"nbf": "later"},
    ],
)
async def test_a_token_for_others_or_another_time_is_refused(
    site: Site, provider: Provider, changes: dict[str, Any]
) -> None:
    claims = {"sub": "ann"} | changes
    headers, body = {"kid": "first"}, {"iss": provider.url, "aud": AUDIENCE, "exp": int(time.time()) + 600} | claims
    body = {name: value for name, value in body.items() if value is not None}
    token = jwt.PyJWS().encode(json.dumps(body).encode(), provider.keys["first"], "RS256", headers)
    status, found = await profile(site, token)
    assert status == 401, found


async def test_forged_tokens_are_refused(site: Site, provider: Provider) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = provider.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = jwt.decode(provider.token(), options={"verify_signature": False})
    for token in (
        provider.token(key=stranger),
        provider.token(key=stranger, kid="first", algorithm="PS256"),
        signed(claims, b"", "none"),
        # The classic: the public key as the secret of a symmetric signature.
        signed(claims, public, "HS256"),
        signed(claims, public, "HS512"),
    ):
        assert (await profile(site, token))[0] == 401


async def test_a_symmetric_key_in_the_key_set_is_not_used(site: Site, provider: Provider) -> None:
    secret = b"secret-secret-secret-secret-secret"
    shown = urlsafe_b64encode(secret).decode().rstrip("=")
    provider.extra_keys = [{"kty": "oct", "k": shown, "kid": "oct", "alg": "HS512"}, {"kty": "strange"}, {}]
    claims = jwt.decode(provider.token(), options={"verify_signature": False})
    token = signed(claims, secret, "HS512", kid="oct")
    assert (await profile(site, token))[0] == 401
    assert (await profile(site, provider.token(sub=uuid4().hex, email=None)))[0] == 200


async def test_a_key_for_encryption_signs_nothing(site: Site, provider: Provider) -> None:
    provider.keys["enc"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    provider.extra_keys = [{**provider._public("enc"), "use": "enc"}]
    key = provider.keys.pop("enc")
    claims = jwt.decode(provider.token(), options={"verify_signature": False})
    assert (await profile(site, jwt.encode(claims, key, "RS256", {"kid": "enc"})))[0] == 401


async def test_other_algorithms_of_the_list_work(site: Site, provider: Provider) -> None:
    provider.keys = {"ec": ec.generate_private_key(ec.SECP256R1()), "ed": ed25519.Ed25519PrivateKey.generate()}
    for kid, algorithm in (("ec", "ES256"), ("ed", "EdDSA")):
        token = provider.token(kid=kid, algorithm=algorithm, sub=uuid4().hex, email=None)
        assert (await profile(site, token))[0] == 200


async def test_the_server_s_own_tokens_still_work(site: Site) -> None:
    account = await site.sign_up()
    assert (await account.client.get("/v1/my/profile")).status_code == 200
    made = (await account.client.post("/v1/my/keys", json={"name": "k"})).json()
    assert (await profile(site, made["key"]))[0] == 200


# The key set


async def test_the_key_set_is_fetched_once(site: Site, provider: Provider) -> None:
    for _ in range(3):
        await profile(site, provider.token())
    await asyncio.gather(*(profile(site, provider.token()) for _ in range(5)))
    assert provider.requests == ["/.well-known/openid-configuration", "/keys"]


async def test_a_configured_key_set_needs_no_discovery(
    database: Database, data_folder: Path, provider: Provider
) -> None:
    async with joined(database, data_folder, provider, oidc_jwks_url=f"{provider.url}/mine") as site:
        assert (await profile(site, provider.token()))[0] == 200
    assert provider.requests == ["/mine"]


async def test_a_new_key_is_found_by_one_refetch_and_a_flood_makes_no_more(site: Site, provider: Provider) -> None:
    assert (await profile(site, provider.token()))[0] == 200
    provider.keys["second"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    site.clock.advance(timedelta(seconds=31))
    provider.requests.clear()
    assert (await profile(site, provider.token(kid="second")))[0] == 200
    assert provider.requests == ["/keys"]
    made_up = [provider.token(kid="first") for _ in range(3)]
    key = provider.keys["first"]
    for n in range(20):
        claims = jwt.decode(made_up[0], options={"verify_signature": False})
        assert (await profile(site, jwt.encode(claims, key, "RS256", {"kid": f"made-up-{n}"})))[0] == 401
    assert provider.requests == ["/keys"]
    site.clock.advance(timedelta(seconds=31))
    await profile(site, jwt.encode(claims, key, "RS256", {"kid": "made-up"}))
    assert provider.requests == ["/keys", "/keys"]


async def test_a_withdrawn_key_stops_within_the_hour(site: Site, provider: Provider) -> None:
    stolen = provider.keys["first"]
    assert (await profile(site, provider.token()))[0] == 200
    provider.keys = {"second": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
    site.clock.advance(timedelta(minutes=61))
    exp = int(site.clock.now().timestamp()) + 600
    assert (await profile(site, provider.token(kid="first", key=stolen, exp=exp)))[0] == 401


async def test_known_keys_carry_on_while_the_issuer_is_away_but_not_for_ever(site: Site, provider: Provider) -> None:
    assert (await profile(site, provider.token()))[0] == 200
    provider.status = 500

    def token() -> str:
        return provider.token(exp=int(site.clock.now().timestamp()) + 600)

    site.clock.advance(timedelta(hours=2))
    assert (await profile(site, token()))[0] == 200
    site.clock.advance(timedelta(hours=23))
    assert (await profile(site, token()))[0] == 503
    provider.status = 200
    site.clock.advance(timedelta(minutes=1))
    assert (await profile(site, token()))[0] == 200


async def test_an_issuer_that_never_answered_is_a_503(site: Site, provider: Provider) -> None:
    provider.status = 500
    status, found = await profile(site, provider.token())
    assert status == 503, found
    account = await site.sign_up()
    assert (await account.client.get("/v1/my/profile")).status_code == 200


async def test_a_discovery_document_of_somebody_else_is_not_followed(site: Site, provider: Provider) -> None:
    provider.named_issuer = "https://elsewhere.example"
    assert (await profile(site, provider.token()))[0] == 503


def test_an_issuer_without_an_audience_is_refused(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, oidc_issuer="https://login.example.com")
    with pytest.raises(ValueError, match="RETINUE_OIDC_AUDIENCE"):
        Issuer.from_settings(settings, SystemClock())
