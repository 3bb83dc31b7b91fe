"""Signatures of requests: against the examples of RFC 9421, and against whatever else may come."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from http_message_signatures import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.identity import GranteeKey, grantee_id
from retinue.identity import signatures as signatures_module
from retinue.identity.signatures import Signatures
from retinue.kernel import ManualClock, Unauthenticated
from retinue.web import Asked, content_digests
from retinue.web.callers import RawHeaders, target_of
from retinue_client import GranteeKey as ClientKey
from retinue_client import content_digest, signed
from tests.support.asking import asked
from tests.support.signing import wallet_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
URL = "https://agents.example.com/v1/operations?x=1"

# RFC 9421, appendix B.1.4 and B.2.6.
RFC_PUBLIC = b"""-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
"""
RFC_PRIVATE = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF
-----END PRIVATE KEY-----
"""
RFC_INPUT = (
    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473'
    ';keyid="test-key-ed25519"'
)
RFC_SIGNATURE = "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"
RFC_DIGEST = "WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew=="
RFC_HEADERS = {
    "host": "example.com",
    "date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "content-type": "application/json",
    "content-digest": f"sha-512=:{RFC_DIGEST}:",
    "content-length": "18",
    "signature-input": RFC_INPUT,
    "signature": RFC_SIGNATURE,
}


def rfc_key() -> GranteeKey:
    public = load_pem_public_key(RFC_PUBLIC).public_bytes_raw()  # type: ignore[union-attr]
    return GranteeKey("rfc", "ed25519", public)


def rfc_message(**changes: str) -> signatures_module._Message:
    lines = list((RFC_HEADERS | changes).items())
    return signatures_module._Message(
        "POST", "https://example.com/foo?param=Value&Pet=dog", signatures_module._Fields(lines)
    )


class _RfcVerifier(signatures_module._Verifier):
    """Our verifier with the RFC's key, and without our demands, which its example does not meet (no nonce)."""

    def __init__(self) -> None:
        super().__init__(0, has_body=False)
        self.key_resolver = _RfcKey()

    def validate_created_and_expires(self, sig_input: object, max_age: object = None) -> None:
        return None


class _RfcKey(signatures_module._FromKeyId):
    def resolve_public_key(self, key_id: str) -> GranteeKey:
        assert key_id == "test-key-ed25519"
        return rfc_key()


def test_the_example_of_rfc_9421_with_ed25519_is_verified() -> None:
    (result,) = _RfcVerifier().verify(rfc_message(), max_age=None)
    assert list(result.covered_components)[:2] == ['"date"', '"@method"']
    assert content_digests(RFC_HEADERS["content-digest"])["sha-512"].hex().startswith("5990cf69")


@pytest.mark.parametrize("header", ["date", "content-type", "content-length"])
def test_the_example_with_one_header_changed_is_refused(header: str) -> None:
    with pytest.raises(InvalidSignature):
        _RfcVerifier().verify(rfc_message(**{header: "1"}), max_age=None)


def test_our_client_signs_as_the_example_does() -> None:
    """The example's base, made and signed by the client's own code for what both cover, under the RFC's private key."""
    private = load_pem_private_key(RFC_PRIVATE, None).private_bytes_raw()  # type: ignore[union-attr]
    key = ClientKey(private, b"\1" * 32)
    assert key.keyid == "ed25519:JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"
    base = "\n".join(
        [
            '"date": Tue, 20 Apr 2021 02:07:55 GMT',
            '"@method": POST',
            '"@path": /foo',
            '"@authority": example.com',
            '"content-type": application/json',
            '"content-length": 18',
            f'"@signature-params": {RFC_INPUT.removeprefix("sig-b26=")}',
        ]
    )
    assert rfc_key().verify(key.sign(base.encode()), base.encode())


# What our client signs, the server accepts


def request(key: ClientKey, **changes: object) -> Asked:
    options = {"now": NOW.timestamp()} | changes
    grant_id = options.pop("grant_id", str(uuid4()))
    headers = {"Content-Digest": content_digest(b"body"), "Content-Length": "4", "Host": "agents.example.com"}
    headers |= signed(key, str(grant_id), "POST", URL, headers, **options)  # type: ignore[arg-type]
    return asked({name.lower(): value for name, value in headers.items()}, "POST", URL)


def server() -> Signatures:
    return Signatures(ManualClock(NOW))


async def test_what_the_client_signs_is_a_credential_of_its_grant() -> None:
    key, grant_id = ClientKey.make(), uuid4()
    found = await server().verify(request(key, grant_id=grant_id, nonce="n" * 16))
    assert found.kind == "signature"
    assert found.claims == {
        "kind": "grant",
        "grant": str(grant_id),
        "grantee": key.keyid,
        "nonce": "n" * 16,
        "until": "2026-11-21T12:01:00+00:00",
    }
    assert found.digest == content_digest(b"body")
    assert found.tenant_id is None
    assert found.expires_at is None, "a stream that it opens lasts as long as the grant does"


async def test_two_applications_that_name_one_grant_are_told_apart() -> None:
    """Else one could use up the other's rate limit, or end its streams."""
    grant_id = uuid4()
    found = [await server().verify(request(ClientKey.make(), grant_id=grant_id)) for _ in range(2)]
    assert found[0].subject != found[1].subject


async def test_a_wallets_signature_does_not_hold_the_server_up() -> None:
    """Recovering the key takes 8 ms of Python, so it happens in a thread: the loop turns meanwhile."""
    wallet = wallet_of(os.urandom(32))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    turning = asyncio.create_task(turn())
    await asyncio.sleep(0)
    headers = {"Host": "agents.example.com"}
    headers |= signed(wallet, str(uuid4()), "GET", URL, headers, now=NOW.timestamp())
    before = turns
    found = await server().verify(asked({name.lower(): value for name, value in headers.items()}, "GET", URL))
    turning.cancel()
    assert found.claims["grantee"] == wallet.keyid
    assert turns > before + 1


# Keys


def test_a_key_has_one_spelling_and_one_id() -> None:
    text = ClientKey.make().keyid
    assert GranteeKey.parse(text).text == text
    address = "eip155:0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"  # the example of EIP-55
    lower = GranteeKey.parse(address).text
    assert lower == address.lower()
    assert GranteeKey.parse(lower).text == lower
    assert grantee_id(text) == grantee_id(text) != grantee_id(lower)
    assert isinstance(grantee_id(text), UUID)


def test_the_refused_points_are_those_of_small_order() -> None:
    """Each of them, doubled three times on the curve, is the neutral point; a usual key is not."""
    field = 2**255 - 19
    d = -121665 * pow(121666, -1, field) % field

    def x_of(y: int) -> int | None:
        square = (y * y - 1) * pow(d * y * y + 1, -1, field) % field
        root = pow(square, (field + 3) // 8, field)
        for one in (root, root * pow(2, (field - 1) // 4, field) % field):
            if one * one % field == square:
                return one
        return None

    def doubled(point: tuple[int, int]) -> tuple[int, int]:
        x, y = point
        product = d * x * x * y * y % field
        return (
            2 * x * y * pow(1 + product, -1, field) % field,
            (y * y + x * x) * pow(1 - product, -1, field) % field,
        )

    from retinue.identity.grantees import _SMALL_ORDER

    for y in _SMALL_ORDER:
        x = x_of(y)
        assert x is not None
        point = (x, y)
        for _ in range(3):
            point = doubled(point)
        assert point == (0, 1), y
    assert len(_SMALL_ORDER) == 5  # the y of all eight points: 1, 2, 4 and 4, and four of order 8 on two y


# The URL


@pytest.mark.parametrize(
    "public, raw, query, expected",
    [
        (None, b"/v1/grant", b"", "http://here:8700/v1/grant"),
        (None, b"/v1/a%2Fb", b"x=%20&y", "http://here:8700/v1/a%2Fb?x=%20&y"),
        ("https://agents.example.com", b"/v1/grant", b"", "https://agents.example.com/v1/grant"),
        ("https://example.com/agents", b"/v1/grant", b"a=1", "https://example.com/agents/v1/grant?a=1"),
    ],
    ids=["host", "escaped", "public", "public with a path"],
)
def test_the_url_is_the_one_that_the_client_wrote(public: str | None, raw: bytes, query: bytes, expected: str) -> None:
    scope = {"scheme": "http", "path": "/other", "raw_path": raw, "query_string": query}
    assert target_of(scope, RawHeaders([(b"host", b"here:8700")]), public) == expected


# Whatever may come

_WORDS = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60),
    st.sampled_from(
        [
            'retinue=("@method" "@target-uri" "retinue-grant");created=1;expires=2;nonce="aaaaaaaaaaaaaaaa";keyid="x"',
            "retinue=:AAAA:",
            "retinue=()",
            "retinue=1",
            "retinue",
            "a=(" + "(" * 500,
            'retinue=("@method";req "@query-param";name="a" "@status")',
            "sha-256=:AAAA:",
            "sha-256=?1, sha-256=:AAAA:",
            "999999999999999",
            "-1",
        ]
    ),
)


@given(
    signature_input=_WORDS,
    signature=_WORDS,
    grant=st.one_of(_WORDS, st.uuids().map(str)),
    digest=_WORDS,
    extra=st.dictionaries(st.sampled_from(["host", "content-length", "authorization", "x"]), _WORDS),
)
@settings(max_examples=300, deadline=None)
async def test_nonsense_is_refused_and_never_a_mistake_of_ours(
    signature_input: str, signature: str, grant: str, digest: str, extra: dict[str, str]
) -> None:
    headers = {"signature-input": signature_input, "signature": signature, "retinue-grant": grant, "host": "h"}
    headers |= {"content-digest": digest} | extra
    with pytest.raises(Unauthenticated):
        await server().verify(asked(headers, "GET", "http://h/"))


_PARAMETERS = st.dictionaries(
    st.sampled_from(["created", "expires", "nonce", "keyid", "alg", "tag", "x"]),
    st.one_of(
        st.integers(-(10**15) + 1, 10**15 - 1).map(str),
        st.sampled_from(
            ["?1", ":AAAA:", "1.5", "token", "@1", '""', '"ed25519:x"', '"eip155:0x00"', '"' + "n" * 200 + '"']
        ),
    ),
)
_COVERED = st.lists(
    st.sampled_from(
        [
            '"@method"',
            '"@target-uri"',
            '"retinue-grant"',
            '"content-digest"',
            '"content-digest";key="sha-256"',
            '"@query-param";name="x"',
            '"@query-param"',
            '"@status"',
            '"host";sf',
            '"host";bs',
            '"@Method"',
            '"@signature-params"',
            '"signature"',
            "1",
        ]
    ),
    max_size=8,
)


@given(covered=_COVERED, parameters=_PARAMETERS)
@settings(max_examples=300, deadline=None)
async def test_well_formed_nonsense_is_refused_too(covered: list[str], parameters: dict[str, str]) -> None:
    good = request(ClientKey.make())
    headers = dict(good.headers)
    wanted = {"created": str(int(NOW.timestamp())), "expires": str(int(NOW.timestamp()) + 60), "nonce": f'"{"n" * 16}"'}
    wanted |= {"keyid": f'"{ClientKey.make().keyid}"'} | parameters
    said = "".join(f";{name}={value}" for name, value in wanted.items())
    headers["signature-input"] = f"retinue=({' '.join(covered)}){said}"
    with pytest.raises(Unauthenticated):
        await server().verify(asked(headers, "POST", URL))


@given(text=st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_keys_and_digests_are_read_or_refused(text: str) -> None:
    for read in (GranteeKey.parse, content_digests, lambda one: GranteeKey.parse("ed25519:" + one)):
        with contextlib.suppress(ValueError):
            read(text)


@given(signature=st.binary(min_size=60, max_size=70), message=st.binary(max_size=20))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_no_signature_of_a_wallet(signature: bytes, message: bytes) -> None:
    assert not GranteeKey.parse("eip155:0x" + "11" * 20).verify(signature, message)
