"""What an application must not get, request by request, over HTTP against a started server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from retinue_client import GranteeKey
from tests.grants.conftest import desk_at
from tests.grants.refusals import CASES, NO_GRANT, Desk, check
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server
from tests.support.signing import granted, wallet_of


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture(scope="module")
async def ann(server: RunningServer) -> Person:
    return await server.person("ann")


@pytest.fixture(scope="module")
async def desk(server: RunningServer, ann: Person) -> AsyncIterator[Desk]:
    async with httpx.AsyncClient(timeout=30) as client:
        yield await desk_at(server.base_url, client, ann, await server.person("bob"))


@pytest.mark.parametrize("name", sorted(CASES))
async def test_is_refused_with_the_reason(name: str, desk: Desk) -> None:
    await check(name, desk)


async def test_good_requests_pass(desk: Desk) -> None:
    """Without this, a server that refuses everything would pass all the other tests."""
    answer = await desk.look().send(desk.client)
    assert answer.status_code == 200, answer.text
    assert answer.json()["grant_id"] == desk.grant_id
    wallet = desk.look(signer=wallet_of(desk.wallet_secret), grant_id=desk.wallets_grant)
    answer = await wallet.send(desk.client)
    assert answer.status_code == 200, answer.text
    assert answer.json()["grant_id"] == desk.wallets_grant


async def test_a_wallet_may_write_its_last_byte_in_either_way(desk: Desk) -> None:
    """Ledger devices and others end a signature with 0 or 1, where most write 27 or 28."""
    wallet = wallet_of(desk.wallet_secret)

    def other_form(message: bytes) -> bytes:
        signature = wallet.personal_sign(message)
        return signature[:64] + bytes([signature[64] - 27])

    request = desk.look(signer=replace(wallet, personal_sign=other_form), grant_id=desk.wallets_grant)
    answer = await request.send(desk.client)
    assert answer.status_code == 200, answer.text


async def test_signed_with_the_longest_life_and_a_clock_that_is_ahead(desk: Desk) -> None:
    answer = await desk.look(options={"life": 300, "now": desk.now() + 5}).send(desk.client)
    assert answer.status_code == 200, answer.text


async def test_of_several_signatures_ours_counts(desk: Desk) -> None:
    """A proxy on the way may sign, too; what it signs neither helps nor hurts."""
    request = desk.look()
    headers = request.sign()
    proxys = {
        "Signature-Input": f'proxy=("@method");created=1;keyid="p", {headers["Signature-Input"]}',
        "Signature": f"proxy=:AAAA:, {headers['Signature']}",
    }
    answer = await request.send(desk.client, headers | proxys)
    assert answer.status_code == 200, answer.text

    forged = {
        "Signature-Input": f"{desk.look().sign()['Signature-Input'].replace('retinue=', 'a=')}, "
        f"{headers['Signature-Input']}",
        "Signature": f"{desk.look().sign()['Signature'].replace('retinue=', 'a=')}, retinue=:AAAA:",
    }
    answer = await request.send(desk.client, headers | forged)
    assert answer.status_code == 401, answer.text


async def test_a_stranger_learns_nothing_of_a_grant(desk: Desk) -> None:
    """A grant of somebody else and one that never was look the same, to the last header."""
    answers = [
        await desk.look(grant_id=grant_id).send(desk.client)
        for grant_id in (desk.strangers_grant, "0190c2f0-0000-7000-8000-000000000000")
    ]
    first, second = ((one.status_code, one.json() | {"trace_id": ""}, sorted(one.headers)) for one in answers)
    assert first == second
    assert first[1]["detail"] == NO_GRANT


async def test_sent_twenty_times_at_once_it_succeeds_once(desk: Desk) -> None:
    request = desk.look()
    headers = request.sign()
    limits = httpx.Limits(max_connections=20)
    async with httpx.AsyncClient(timeout=30, limits=limits) as client:
        answers = await asyncio.gather(*(request.send(client, headers) for _ in range(20)))
    assert Counter(one.status_code for one in answers) == {200: 1, 401: 19}


async def test_revoked_grants_are_refused_with_the_time(desk: Desk, ann: Person) -> None:
    key = GranteeKey.make()
    grant_id = (await granted(ann, key))["grant_id"]
    request = desk.look(signer=key, grant_id=grant_id)
    assert (await request.send(desk.client)).status_code == 200
    await ann.call("DELETE", f"/v1/my/grants/{grant_id}", 204)
    answer = await request.send(desk.client)
    assert answer.status_code == 403, answer.text
    revoked_at = (await ann.call("GET", f"/v1/my/grants/{grant_id}"))["revoked_at"]
    assert f"revoked at {revoked_at[:19]}Z" in answer.json()["detail"]
    other = await desk.look(grant_id=grant_id).send(desk.client)
    assert (other.status_code, other.json()["detail"]) == (401, NO_GRANT), "only its grantee learns of the end"


async def test_nothing_of_a_refused_request_is_logged_as_a_mistake(server: RunningServer, desk: Desk) -> None:
    await check("another_body", desk)
    assert '"stack"' not in server.log()
