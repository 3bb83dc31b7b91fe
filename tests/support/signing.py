"""Applications in tests: keys, grants, and requests that are signed well, or not."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey

from retinue_client import Application, GranteeKey, Signer, Wallet, content_digest, signed
from tests.support.running import Person


async def granted(person: Person, signer: Signer, **terms: Any) -> dict[str, Any]:
    """Have a person grant an application something."""
    body: dict[str, Any] = {"application": "Report writer", "grantee": signer.keyid}
    if isinstance(signer, GranteeKey):
        body["seal_to"] = signer.seal_to
    found: dict[str, Any] = await person.call("POST", "/v1/my/grants", 201, json=body | terms)
    return found


@asynccontextmanager
async def application_of(person: Person, **terms: Any) -> AsyncIterator[Application]:
    """Grant an application something, and return it with a fresh key, ready to ask.

    Its ``http`` is an ``httpx`` client that signs: ``await application.http.get("/v1/grant")``.
    """
    key = GranteeKey.make()
    grant = await granted(person, key, **terms)
    async with Application(str(person.client.base_url), grant["grant_id"], key) as application:
        yield application


def wallet_of(secret: bytes) -> Wallet:
    """A wallet, as Ethereum's do it: ``personal_sign`` of EIP-191."""
    private = PrivateKey(secret)

    def personal_sign(message: bytes) -> bytes:
        digest = keccak(b"\x19Ethereum Signed Message:\n" + str(len(message)).encode() + message)
        signature = private.sign_msg_hash(digest)
        return bytes(signature.r.to_bytes(32, "big") + signature.s.to_bytes(32, "big") + bytes([27 + signature.v]))

    return Wallet(private.public_key.to_checksum_address(), personal_sign)


@dataclass
class Signing:
    """One signed request, all of which a test can change before or after it is signed."""

    base_url: str
    grant_id: str
    signer: Signer
    method: str = "GET"
    path: str = "/v1/grant"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def json(self, value: Any) -> Signing:
        """Give it a JSON body."""
        self.body = json.dumps(value).encode()
        self.headers["Content-Type"] = "application/json"
        return self

    def sign(self) -> dict[str, str]:
        """Return all headers of the request, signed."""
        headers = dict(self.headers)
        if self.body:
            headers.setdefault("Content-Digest", content_digest(self.body))
        added = signed(self.signer, self.grant_id, self.method, self.base_url + self.path, headers, **self.options)
        return headers | added

    async def send(self, client: httpx.AsyncClient, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Send it, with other headers than its own when they are given."""
        return await client.request(
            self.method,
            self.base_url + self.path,
            content=self.body,
            headers=dict(self.sign() if headers is None else headers),
        )


def signature_of(headers: Mapping[str, str]) -> bytes:
    """Take the bytes of the signature out of the headers."""
    return base64.b64decode(headers["Signature"].partition(":")[2].rstrip(":"))
