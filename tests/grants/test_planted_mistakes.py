"""Mistakes planted in the checks of signatures: each must be seen by the tests of what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from retinue.identity import signatures
from retinue.identity.credentials import Credentials
from retinue.identity.grantees import GranteeKey
from retinue.kernel import Unauthenticated
from retinue.tenancy import doorkeeper
from retinue.web import callers
from retinue.web.digests import BodyCheck
from tests.grants.refusals import CASES, Desk, check

Plant = Callable[[pytest.MonkeyPatch], None]


def _no_nonce(patch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> None:
        return None

    patch.setattr(doorkeeper.DoorKeeper, "use_up", nothing)


def _nonce_of_one_grant_or_path_only(patch: pytest.MonkeyPatch) -> None:
    """Nonces kept in the transaction of the request: a request that fails leaves none."""
    original = doorkeeper.DoorKeeper.use_up
    enter = doorkeeper.DoorKeeper.enter
    waiting: list[Any] = []

    async def later(self: Any, credential: Any, tenant_id: Any) -> None:
        waiting.append((credential, tenant_id))

    async def enter_then(self: Any, credential: Any, tenant_id: Any, uow: Any) -> Any:
        entry = await enter(self, credential, tenant_id, uow)
        for one in waiting:
            uow.before_commit(lambda one=one: original(self, *one))
        waiting.clear()
        return entry

    patch.setattr(doorkeeper.DoorKeeper, "use_up", later)
    patch.setattr(doorkeeper.DoorKeeper, "enter", enter_then)


def _every_signature_fits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(GranteeKey, "verify", lambda self, signature, message: True)


def _path_without_query(patch: pytest.MonkeyPatch) -> None:
    original = callers.target_of

    def cut(*arguments: Any) -> str:
        return original(*arguments).partition("?")[0]

    patch.setattr(callers, "target_of", cut)


def _body_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BodyCheck, "finish", lambda self: None)


def _digest_not_wanted(patch: pytest.MonkeyPatch) -> None:
    def only_what_is_always_there(self: Any, sig_input: Any, max_age: object = None) -> None:
        signatures._check_times(sig_input.params, self._now)
        signatures._check_names(sig_input.params)

    patch.setattr(signatures._Verifier, "validate_created_and_expires", only_what_is_always_there)


def _time_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(signatures, "_check_times", lambda params, now: None)


def _grant_of_any_key(patch: pytest.MonkeyPatch) -> None:
    original = Credentials._home_of_grant

    async def home(self: Any, grant_id: Any, grantee: str) -> Any:
        for key in KEYS:
            with contextlib.suppress(Unauthenticated):
                return await original(self, grant_id, key)
        return await original(self, grant_id, grantee)

    patch.setattr(Credentials, "_home_of_grant", home)
    patch.setattr(doorkeeper, "_ENTER_GRANT", doorkeeper._ENTER_GRANT.replace(" AND g.grantee = $2", " AND $2 <> ''"))


def _headers_not_single(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(signatures, "_single", lambda asked, name: asked.headers.get(name, ""))


KEYS: list[str] = []

PLANTS: dict[str, tuple[Plant, list[str]]] = {
    "no nonce is kept": (_no_nonce, ["replayed", "nonce_used_for_another_request", "wallet_replayed"]),
    "a nonce is kept with its request only": (_nonce_of_one_grant_or_path_only, ["replayed_after_a_refusal"]),
    "any signature fits": (
        _every_signature_fits,
        ["another_path", "another_method", "signed_with_another_key", "wallet_of_somebody_else", "grant_exchanged"],
    ),
    "the query is not signed": (_path_without_query, ["a_query_added"]),
    "the body is not compared": (_body_unchecked, ["another_body", "no_body_any_more", "another_body_in_pieces"]),
    "a digest need not be covered": (_digest_not_wanted, ["a_body_added", "digest_not_covered", "url_not_covered"]),
    "the time is not looked at": (_time_unchecked, ["expired", "from_the_future", "for_too_long"]),
    "a grant is anybody's": (_grant_of_any_key, ["own_grant_with_another_key", "grant_of_another_application"]),
    "headers may be there twice": (_headers_not_single, ["two_grants"]),
}


@pytest.mark.parametrize("plant, name", [(plant, name) for plant, (_, names) in PLANTS.items() for name in names])
async def test_the_planted_mistake_is_seen(plant: str, name: str, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    KEYS[:] = [desk.key.keyid, desk.stranger.keyid]
    PLANTS[plant][0](monkeypatch)
    with pytest.raises((AssertionError, KeyError)):
        await check(name, desk)


async def test_without_a_planted_mistake_all_is_refused(desk: Desk) -> None:
    """What the tests above prove is worth nothing where the requests fail for another reason."""
    for _, names in PLANTS.values():
        for name in names:
            await check(name, desk)


def test_every_request_that_is_named_exists() -> None:
    assert {name for _, names in PLANTS.values() for name in names} <= set(CASES)
