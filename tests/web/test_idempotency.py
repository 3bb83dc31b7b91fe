"""One key makes one thing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from retinue.database import Database
from retinue.ledger import Feed
from retinue.web.idempotency import Idempotency, Repeatable
from tests.web.paper import House, Person, eventually, served, settings_for_tests
from tests.web.test_requests import NOTES, problem


def keyed(person: Person, key: str = "one-key") -> dict[str, str]:
    return {**person.headers, "Idempotency-Key": key}


async def notes_of(house: House, person: Person) -> int:
    return len(await house.services.get(Feed).read(person.tenant_id, 0))


async def test_the_same_key_gets_the_same_answer(house: House, ann: Person) -> None:
    async with house.client() as client:
        first = await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
        again = await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
        quoted = await client.post(NOTES, json={"text": "a"}, headers=keyed(ann, '"one-key"'))
        other = await client.post(NOTES, json={"text": "a"}, headers=keyed(ann, "another-key"))
    assert first.status_code == again.status_code == quoted.status_code == 201
    assert first.json() == again.json() == quoted.json() != other.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == "application/json"
    assert first.headers["traceparent"] != again.headers["traceparent"]
    assert await notes_of(house, ann) == 2


async def test_the_same_key_with_another_request_is_refused(house: House, ann: Person) -> None:
    async with house.client() as client:
        await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
        for path, body in ((NOTES, {"text": "b"}), (f"{NOTES}/waited", {"text": "a"}), (f"{NOTES}?x=1", {"text": "a"})):
            document = problem(await client.post(path, json=body, headers=keyed(ann)), 422, "bad-input")
            assert document["errors"][0]["field"] == "Idempotency-Key"
    assert await notes_of(house, ann) == 1


async def test_keys_belong_to_their_user_and_tenant(house: House, ann: Person) -> None:
    colleague = house.gate.add(tenant_id=ann.tenant_id)
    stranger = house.gate.add()
    async with house.client() as client:
        answers = [
            (await client.post(NOTES, json={"text": "a"}, headers=keyed(person))).json()["note_id"]
            for person in (ann, colleague, stranger)
        ]
    assert len(set(answers)) == 3


@pytest.mark.parametrize("path, status", [("failing", 500), ("failing?refuse=true", 409)])
async def test_a_failed_request_leaves_its_key_free(house: House, ann: Person, path: str, status: int) -> None:
    async with house.client() as client:
        assert (await client.post(f"{NOTES}/{path}", json={"text": "a"}, headers=keyed(ann))).status_code == status
        assert (await client.post(NOTES, json={"text": "other"}, headers=keyed(ann))).status_code == 201
    assert await notes_of(house, ann) == 1


async def test_a_recorded_refusal_is_repeated(house: House, ann: Person) -> None:
    async with house.client() as client:
        for _ in range(2):
            response = await client.post(f"{NOTES}/refused", json={"text": "a"}, headers=keyed(ann))
            problem(response, 409, "conflict")
    assert await notes_of(house, ann) == 1


async def test_a_deferred_answer_repeats_what_was_accepted(house: House, ann: Person) -> None:
    async with house.client() as client:
        first = await client.post(f"{NOTES}/waited", json={"text": "a"}, headers=keyed(ann))
        again = await client.post(f"{NOTES}/waited", json={"text": "a"}, headers=keyed(ann))
    assert (first.status_code, again.status_code) == (200, 202)
    assert first.json()["note_id"] == again.json()["note_id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", '""'])
async def test_keys_that_are_none(house: House, ann: Person, key: str) -> None:
    async with house.client() as client:
        problem(await client.post(NOTES, json={"text": "a"}, headers=keyed(ann, key)), 422, "bad-input")


async def test_uploads_repeat_whatever_their_boundary(house: House, ann: Person) -> None:
    async with house.client() as client:
        answers = [
            (await client.post(f"{NOTES}/upload", files={"file": b"same"}, headers=keyed(ann))).json() for _ in range(2)
        ]
    assert answers[0] == answers[1]
    assert await notes_of(house, ann) == 1


async def repeat_while_at_work(house: House, person: Person, urls: list[str]) -> list[httpx.Response]:
    """Send one request, and while it is at work the same to each of ``urls``; then let it finish."""
    house.slow.arrived.clear()
    house.slow.go_on.clear()
    house.slow.entered = 0
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)) for url in urls]
        requests = [
            asyncio.create_task(client.post(f"{NOTES}/slowly", json={"text": "a"}, headers=keyed(person)))
            for client in clients
        ]
        await house.slow.arrived.wait()
        # All but one wait: none of them answers before the first is let go on.
        done, _ = await asyncio.wait(requests, timeout=0.3)
        assert not done
        house.slow.go_on.set()
        return list(await asyncio.gather(*requests))


async def test_repetitions_wait_for_the_first(house: House, ann: Person) -> None:
    answers = await repeat_while_at_work(house, ann, [house.url] * 20)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["note_id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert house.slow.entered == 1
    assert await notes_of(house, ann) == 1
    assert not house.services.get(Idempotency)._at_work


async def test_repetitions_wait_for_the_first_on_another_server(house: House, database: Database, ann: Person) -> None:
    """Two processes share nothing but the database; the key's row makes the second wait."""
    async with served(database, settings_for_tests()) as other:
        other.gate.people[ann.token] = ann
        other.slow.__dict__ = house.slow.__dict__
        answers = await repeat_while_at_work(house, ann, [house.url, other.url])
    assert len({answer.json()["note_id"] for answer in answers}) == 1
    assert house.slow.entered == 1
    assert await notes_of(house, ann) == 1


async def test_the_tests_would_notice_a_missing_claim(house: House, ann: Person, monkeypatch: Any) -> None:
    """The planted bug: without the claimed row, each repetition makes a thing of its own."""

    async def claims_nothing(self: Repeatable, scope: Any) -> None:
        return None

    monkeypatch.setattr(Repeatable, "begin", claims_nothing)
    async with house.client() as client:
        for _ in range(2):
            await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
    assert await notes_of(house, ann) == 2


async def test_a_client_that_went_away_gets_its_answer_later(house: House, ann: Person) -> None:
    """The request commits although nobody waits for the answer any more; the retry gets it and makes nothing new."""
    house.slow.arrived.clear()
    house.slow.go_on.clear()
    async with house.client() as client:
        leaving = asyncio.create_task(client.post(f"{NOTES}/slowly", json={"text": "a"}, headers=keyed(ann)))
        await house.slow.arrived.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        house.slow.go_on.set()
        again = await client.post(f"{NOTES}/slowly", json={"text": "a"}, headers=keyed(ann))
    assert again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    assert await notes_of(house, ann) == 1


async def rows_of(house: House, person: Person) -> list[Any]:
    async with house.scope(person) as scope:
        return list(await scope.queries.fetch("SELECT * FROM idempotency_keys ORDER BY created_at"))


async def test_what_is_stored_can_be_read_with_the_key_only(house: House, ann: Person) -> None:
    secret = "a-new-api-key-" + uuid4().hex
    async with house.client() as client:
        await client.post(NOTES, json={"text": secret}, headers=keyed(ann, "k" * 32))
    (row,) = await rows_of(house, ann)
    for value in row.values():
        for form in (secret, "k" * 32):
            raw = value if isinstance(value, bytes) else str(value).encode()
            assert form.encode() not in raw
            assert base64.b64encode(form.encode())[:20] not in raw


async def test_a_key_can_be_used_again_after_a_day(house: House, ann: Person) -> None:
    async with house.client() as client:
        first = await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
        await client.post(NOTES, json={"text": "a"}, headers=keyed(ann, "old"))
        async with house.scope(ann) as scope:
            await scope.queries.execute(
                "UPDATE idempotency_keys SET created_at = now() - $1::interval", timedelta(hours=25)
            )
        second = await client.post(NOTES, json={"text": "b"}, headers=keyed(ann))
        assert UUID(second.json()["note_id"]) != UUID(first.json()["note_id"])
        third = await client.post(NOTES, json={"text": "b"}, headers=keyed(ann))
        assert third.json() == second.json()
    (row,) = await rows_of(house, ann)  # the old one went along
    assert row["answer"] is not None


async def test_an_answer_that_cannot_be_read_is_not_made_up(house: House, ann: Person) -> None:
    async with house.client() as client:
        await client.post(NOTES, json={"text": "a"}, headers=keyed(ann))
        for stored in (b"\x00" * 40, None):
            async with house.scope(ann) as scope:
                await scope.queries.execute("UPDATE idempotency_keys SET answer = $1", stored)
            problem(await client.post(NOTES, json={"text": "a"}, headers=keyed(ann)), 409, "conflict")
    assert await notes_of(house, ann) == 1
    await eventually(lambda: not house.services.get(Idempotency)._at_work)
