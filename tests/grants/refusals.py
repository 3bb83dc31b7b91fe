"""Requests that are signed badly, or not meant so, and what the server must say to each."""

from __future__ import annotations

import hashlib
import os
import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx

from retinue_client import GranteeKey, content_digest
from tests.support.signing import Signing, wallet_of

Headers = dict[str, str]
BODY = {"application": "Writes reports", "grantee": "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an application asks.

    Attributes:
        client: signs nothing.
        base_url: of the server.
        key, grant_id: of the application.
        stranger, strangers_grant: of another application, of another user.
        wallet_secret, wallets_grant: of an application that signs with a wallet.
        now: the server's time in seconds since 1970.
    """

    client: httpx.AsyncClient
    base_url: str
    key: GranteeKey
    grant_id: str
    stranger: GranteeKey
    strangers_grant: str
    wallet_secret: bytes
    wallets_grant: str
    now: Callable[[], float] = time.time

    def look(self, **changes: Any) -> Signing:
        """A good request without a body."""
        options = {"now": self.now()} | changes.pop("options", {})
        return replace(Signing(self.base_url, self.grant_id, self.key, options=options), **changes)

    def post(self, **changes: Any) -> Signing:
        """A good request with a body; the grant allows it nothing there, which is a 403."""
        return self.look(method="POST", path="/v1/my/grants", **changes).json(BODY)


@dataclass(frozen=True, slots=True)
class Expected:
    """The answer: its status, and a part of its detail."""

    status: int
    says: str


Case = Callable[[Desk], Awaitable[tuple[httpx.Response, Expected]]]
CASES: dict[str, Case] = {}


def case(status: int, says: str) -> Callable[[Callable[[Desk], Awaitable[httpx.Response]]], Case]:
    """Register a request and the answer that it must get."""

    def register(function: Callable[[Desk], Awaitable[httpx.Response]]) -> Case:
        async def run(desk: Desk) -> tuple[httpx.Response, Expected]:
            return await function(desk), Expected(status, says)

        CASES[function.__name__] = run
        return run

    return register


async def check(name: str, desk: Desk) -> None:
    """Make a request that must be refused, and look at the answer.

    Raises:
        AssertionError: it was not, or not so.
    """
    answer, expected = await CASES[name](desk)
    assert answer.status_code == expected.status, f"{name}: {answer.status_code} {answer.text}"
    problem = answer.json()
    assert expected.says in problem["detail"], f"{name}: {problem['detail']}"
    assert "Traceback" not in answer.text
    assert desk.strangers_grant not in answer.text


_MISMATCH = "does not fit the request and the key"

# Sent again, or elsewhere


@case(401, "nonce of this signature was used before")
async def replayed(desk: Desk) -> httpx.Response:
    request = desk.look()
    headers = request.sign()
    first = await request.send(desk.client, headers)
    assert first.status_code == 200, first.text
    return await request.send(desk.client, headers)


@case(401, "nonce of this signature was used before")
async def replayed_after_a_refusal(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = request.sign()
    first = await request.send(desk.client, headers)
    assert first.status_code == 403, first.text
    return await request.send(desk.client, headers)


@case(401, "nonce of this signature was used before")
async def nonce_used_for_another_request(desk: Desk) -> httpx.Response:
    nonce = uuid4().hex
    first = await desk.look(options={"nonce": nonce}).send(desk.client)
    assert first.status_code == 200, first.text
    return await desk.post(options={"nonce": nonce}).send(desk.client)


@case(401, _MISMATCH)
async def another_path(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await replace(request, path=f"/v1/my/grants/{desk.grant_id}").send(desk.client, request.sign())


@case(401, _MISMATCH)
async def another_query(desk: Desk) -> httpx.Response:
    request = desk.look(path="/v1/artifacts?limit=1")
    return await replace(request, path="/v1/my/grants?limit=2").send(desk.client, request.sign())


@case(401, _MISMATCH)
async def a_query_added(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await replace(request, path="/v1/grant?all=true").send(desk.client, request.sign())


@case(401, _MISMATCH)
async def another_spelling_of_the_path(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await replace(request, path="/v1/%67rant").send(desk.client, request.sign())


@case(401, _MISMATCH)
async def another_method(desk: Desk) -> httpx.Response:
    request = desk.look(path=f"/v1/my/grants/{desk.grant_id}")
    return await replace(request, method="DELETE").send(desk.client, request.sign())


@case(401, _MISMATCH)
async def another_host(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await replace(request).send(desk.client, request.sign() | {"Host": "elsewhere.example"})


@case(401, _MISMATCH)
async def a_covered_header_changed(desk: Desk) -> httpx.Response:
    request = desk.post(headers={"Idempotency-Key": "one"})
    return await request.send(desk.client, request.sign() | {"Idempotency-Key": "two"})


@case(401, "idempotency-key")
async def a_covered_header_taken_away(desk: Desk) -> httpx.Response:
    request = desk.post(headers={"Idempotency-Key": "one"})
    return await request.send(desk.client, without(request.sign(), "Idempotency-Key"))


# Another body


@case(401, "the body is not the one of Content-Digest")
async def another_body(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = request.sign()
    return await replace(request, body=request.body.replace(b"reports", b"poisons")).send(desk.client, headers)


@case(401, "the body is not the one of Content-Digest")
async def no_body_any_more(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = request.sign()
    return await replace(request, body=b"").send(desk.client, headers)


@case(401, '"content-digest"')
async def a_body_added(desk: Desk) -> httpx.Response:
    request = desk.look(method="POST", path="/v1/my/grants")
    headers = request.sign() | {"Content-Type": "application/json"}
    return await replace(request, body=b'{"goal": "poison"}').send(desk.client, headers)


@case(401, "the body is not the one of Content-Digest")
async def another_form(desk: Desk) -> httpx.Response:
    request = desk.look(method="POST", path=f"/v1/my/chat/{uuid4()}/files")
    request.headers["Content-Type"] = "multipart/form-data; boundary=b"
    request.body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nreports\r\n--b--\r\n'
    headers = request.sign()
    return await replace(request, body=request.body.replace(b"reports", b"poisons")).send(desk.client, headers)


@case(401, "the body is not the one of Content-Digest")
async def another_body_in_pieces(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = request.sign()

    async def pieces() -> Any:
        yield request.body[:20]
        yield b"poison"
        yield request.body[26:]

    url = request.base_url + request.path
    return await desk.client.request("POST", url, content=pieces(), headers=headers)


@case(401, "content-digest")
async def digest_stripped(desk: Desk) -> httpx.Response:
    request = desk.post()
    return await request.send(desk.client, without(request.sign(), "Content-Digest"))


@case(401, '"content-digest"')
async def digest_not_covered(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = replace(request, body=b"").sign()
    return await request.send(desk.client, headers | {"Content-Digest": content_digest(request.body)})


@case(401, _MISMATCH)
async def digest_of_another_body(desk: Desk) -> httpx.Response:
    request = desk.post()
    headers = request.sign()
    poison = b'{"goal": "poison"}'
    headers["Content-Digest"] = content_digest(poison)
    return await replace(request, body=poison).send(desk.client, headers)


@case(401, "send sha-256 or sha-512, not md5")
async def digest_of_another_algorithm(desk: Desk) -> httpx.Response:
    request = desk.post()
    request.headers["Content-Digest"] = f"md5=:{b64encode(hashlib.md5(request.body).digest()).decode()}:"  # noqa: S324
    return await request.send(desk.client)


@case(401, "this is no sha-256 digest")
async def digest_cut_short(desk: Desk) -> httpx.Response:
    request = desk.post()
    request.headers["Content-Digest"] = f"sha-256=:{b64encode(hashlib.sha256(request.body).digest()[:4]).decode()}:"
    return await request.send(desk.client)


@case(401, "the body is not the one of Content-Digest")
async def one_digest_of_two_is_wrong(desk: Desk) -> httpx.Response:
    request = desk.post()
    wrong = b64encode(hashlib.sha512(b"poison").digest()).decode()
    request.headers["Content-Digest"] = f"{content_digest(request.body)}, sha-512=:{wrong}:"
    return await request.send(desk.client)


# The wrong time


@case(401, "it has expired")
async def expired(desk: Desk) -> httpx.Response:
    return await desk.look(options={"now": desk.now() - 61}).send(desk.client)


@case(401, "created in the future")
async def from_the_future(desk: Desk) -> httpx.Response:
    return await desk.look(options={"now": desk.now() + 30}).send(desk.client)


@case(401, "300 seconds at most")
async def for_too_long(desk: Desk) -> httpx.Response:
    return await desk.look(options={"life": 301}).send(desk.client)


@case(401, "300 seconds at most")
async def created_after_it_expires(desk: Desk) -> httpx.Response:
    return await edited(
        desk.look(options={"now": desk.now() + 5}), r"expires=\d+", f"expires={int(desk.now()) + 3}", desk
    )


@case(401, "when it `expires`")
async def without_an_end(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r";expires=\d+", "", desk)


@case(401, "must be a Structured Field Integer")
async def created_at_a_word(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r"created=\d+", "created=now", desk)


@case(401, "seconds at most")
async def at_the_end_of_all_numbers(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r"expires=\d+", "expires=999999999999999", desk)


# The wrong key


@case(401, _MISMATCH)
async def signed_with_another_key(desk: Desk) -> httpx.Response:
    class Impostor:
        keyid = desk.key.keyid

        def sign(self, message: bytes) -> bytes:
            return desk.stranger.sign(message)

    return await desk.look(signer=Impostor()).send(desk.client)


NO_GRANT = "There is no such grant for the key that signed this request."


@case(401, NO_GRANT)
async def grant_of_another_application(desk: Desk) -> httpx.Response:
    return await desk.look(grant_id=desk.strangers_grant).send(desk.client)


@case(401, NO_GRANT)
async def grant_that_nobody_has(desk: Desk) -> httpx.Response:
    return await desk.look(grant_id=str(uuid4())).send(desk.client)


@case(401, NO_GRANT)
async def own_grant_with_another_key(desk: Desk) -> httpx.Response:
    return await desk.look(signer=GranteeKey.make()).send(desk.client)


@case(401, _MISMATCH)
async def grant_exchanged(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Retinue-Grant": desk.strangers_grant})


@case(401, _MISMATCH)
async def signature_of_another_request(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Signature": desk.look().sign()["Signature"]})


@case(401, "keyid: an Ed25519 public key is 32 bytes")
async def key_that_is_none(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r'keyid="[^"]*"', 'keyid="ed25519:abc"', desk)


@case(401, "keyid: anybody could sign with this key")
async def key_of_small_order(desk: Desk) -> httpx.Response:
    key = "ed25519:" + "A" * 43
    return await edited(desk.look(), r'keyid="[^"]*"', f'keyid="{key}"', desk)


@case(401, "keyid: a key begins with")
async def key_of_another_kind(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r'keyid="[^"]*"', 'keyid="rsa:abc"', desk)


@case(401, "Unexpected algorithm")
async def another_algorithm(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), "$", ';alg="hmac-sha256"', desk)


# Wallets


@case(401, _MISMATCH)
async def wallet_of_somebody_else(desk: Desk) -> httpx.Response:
    wallet, other = wallet_of(desk.wallet_secret), wallet_of(os.urandom(32))
    return await desk.look(signer=replace(other, address=wallet.address), grant_id=desk.wallets_grant).send(desk.client)


@case(401, _MISMATCH)
async def wallet_without_its_prefix(desk: Desk) -> httpx.Response:
    wallet = wallet_of(desk.wallet_secret)
    changed = replace(wallet, personal_sign=lambda message: wallet.personal_sign(message[1:]))
    return await desk.look(signer=changed, grant_id=desk.wallets_grant).send(desk.client)


@case(401, _MISMATCH)
async def wallet_with_zeros(desk: Desk) -> httpx.Response:
    zeros = replace(wallet_of(desk.wallet_secret), personal_sign=lambda message: bytes(65))
    return await desk.look(signer=zeros, grant_id=desk.wallets_grant).send(desk.client)


@case(401, _MISMATCH)
async def wallet_with_impossible_numbers(desk: Desk) -> httpx.Response:
    ones = replace(wallet_of(desk.wallet_secret), personal_sign=lambda message: b"\xff" * 65)
    return await desk.look(signer=ones, grant_id=desk.wallets_grant).send(desk.client)


@case(401, "nonce of this signature was used before")
async def wallet_replayed(desk: Desk) -> httpx.Response:
    request = desk.look(signer=wallet_of(desk.wallet_secret), grant_id=desk.wallets_grant)
    headers = request.sign()
    first = await request.send(desk.client, headers)
    assert first.status_code == 200, first.text
    return await request.send(desk.client, headers)


@case(401, "leave it out")
async def wallet_that_claims_an_algorithm(desk: Desk) -> httpx.Response:
    request = desk.look(signer=wallet_of(desk.wallet_secret), grant_id=desk.wallets_grant)
    return await edited(request, "$", ';alg="ed25519"', desk)


# Headers that make no sense


@case(401, "the header signature is missing")
async def without_a_signature(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, without(request.sign(), "Signature"))


@case(401, "the header signature-input is missing")
async def without_its_parameters(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, without(request.sign(), "Signature-Input"))


@case(401, "the header retinue-grant is missing")
async def without_a_grant(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, without(request.sign(), "Retinue-Grant"))


@case(401, "no id of a grant")
async def grant_that_is_no_id(desk: Desk) -> httpx.Response:
    return await desk.look(grant_id="mine").send(desk.client)


@case(401, "too long")
async def headers_too_long(desk: Desk) -> httpx.Response:
    request = desk.look()
    headers = request.sign()
    return await request.send(
        desk.client, headers | {"Signature-Input": headers["Signature-Input"] + " " * 3000 + ";a"}
    )


@case(401, "16 to 128 characters")
async def short_nonce(desk: Desk) -> httpx.Response:
    return await desk.look(options={"nonce": "short"}).send(desk.client)


@case(401, "16 to 128 characters")
async def long_nonce(desk: Desk) -> httpx.Response:
    return await desk.look(options={"nonce": "n" * 129}).send(desk.client)


@case(401, "16 to 128 characters")
async def no_nonce(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), r';nonce="[^"]*"', "", desk)


@case(401, "must cover")
async def url_not_covered(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), ' "@target-uri"', ' "@path"', desk)


@case(401, "must cover")
async def method_not_covered(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), '"@method" ', "", desk)


@case(401, "must cover")
async def grant_not_covered(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), ' "retinue-grant"', "", desk)


@case(401, "must cover")
async def grant_covered_in_another_form(desk: Desk) -> httpx.Response:
    return await edited(desk.look(), '"retinue-grant"', '"retinue-grant";bs', desk)


@case(401, "more than 32 components")
async def covers_everything(desk: Desk) -> httpx.Response:
    many = " ".join(f'"x-{n}"' for n in range(40))
    return await edited(desk.look(), r"\)", f" {many})", desk)


@case(401, "Signature-Input")
async def parameters_that_cannot_be_read(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Signature-Input": 'retinue=("@method"'})


@case(401, "Signature")
async def signature_that_cannot_be_read(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Signature": "retinue=:not base64!:"})


@case(401, "different labels")
async def another_label(desk: Desk) -> httpx.Response:
    request = desk.look()
    headers = request.sign()
    return await request.send(desk.client, headers | {"Signature": headers["Signature"].replace("retinue=", "other=")})


@case(401, "the header retinue-grant was sent 2 times")
async def two_grants(desk: Desk) -> httpx.Response:
    request = desk.look()
    headers = [*request.sign().items(), ("Retinue-Grant", desk.strangers_grant)]
    return await desk.client.request("GET", request.base_url + request.path, headers=headers)


@case(401, "Authorization header besides")
async def a_token_besides(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Authorization": "Bearer rtn_live_whatever"})


# Elsewhere


@case(404, "no such tenant")
async def in_another_tenant(desk: Desk) -> httpx.Response:
    request = desk.look()
    return await request.send(desk.client, request.sign() | {"Retinue-Tenant": str(uuid4())})


@case(403, "may not create grants")
async def a_grant_for_itself(desk: Desk) -> httpx.Response:
    return await desk.post().send(desk.client)


@case(404, "no such grant")
async def a_look_at_another_grant(desk: Desk) -> httpx.Response:
    return await desk.look(path=f"/v1/my/grants/{desk.wallets_grant}").send(desk.client)


def without(headers: Mapping[str, str], name: str) -> Headers:
    return {key: value for key, value in headers.items() if key != name}


async def edited(request: Signing, pattern: str, by: str, desk: Desk) -> httpx.Response:
    """Send a request with other parameters than were signed. They are looked at before the signature is."""
    headers = request.sign()
    headers["Signature-Input"] = re.sub(pattern, lambda _: by, headers["Signature-Input"], count=1)
    return await request.send(desk.client, headers)
