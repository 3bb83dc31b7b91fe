"""Files are kept under seal, visible whole or not at all, for whom they are, for as long as they may."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from retinue import artifacts
from retinue.artifacts import views
from retinue.kernel import Actor, ActorKind, BadInput, Conflict, Forbidden, Gone, NotFound, Scope
from retinue.ledger import read_stream
from retinue.vault import new_recipient
from tests.artifacts.support import Place


async def test_a_file_comes_back_as_it_was(place: Place) -> None:
    content = bytes(range(256)) * 3000
    stored = await place.store(content, "data.bin")
    assert (stored.size, stored.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await place.content(stored) == content
    assert await place.content(stored, 100_000, 100_010) == content[100_000:100_010]
    assert await place.used() == len(content)
    await place.checked()


async def test_an_empty_file_is_a_file(place: Place) -> None:
    stored = await place.store(b"", "empty")
    assert stored.size == 0
    assert await place.content(stored) == b""


async def test_nothing_of_the_content_or_the_name_lies_in_the_store(place: Place) -> None:
    await place.store(b"the secret of the house" * 1000, "secret-name.txt")
    files = [one for one in place.folder.rglob("*") if one.is_file() and str(place.tenant_id) in str(one)]
    assert files
    assert not any(b"secret" in one.read_bytes() or "secret" in one.name for one in files)


async def test_what_is_received_is_not_seen_before_it_is_published(place: Place) -> None:
    one, other = await place.receive(name="one"), await place.receive(name="other")
    async with place.scope(role="admin") as scope:
        assert await artifacts.list_artifacts(scope) == []
        with pytest.raises(NotFound):
            await artifacts.find(scope, one.artifact_id)
    async with place.scope() as scope:
        await artifacts.publish(scope, [one, other])
    async with place.scope() as scope:
        assert [found.name for found in await artifacts.list_artifacts(scope)] == ["other", "one"]


async def test_a_transaction_that_fails_publishes_nothing(place: Place) -> None:
    received = await place.receive()

    async def fail() -> None:
        async with place.scope() as scope:
            await artifacts.publish(scope, [received])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with place.scope() as scope:
        assert await artifacts.list_artifacts(scope) == []
        await artifacts.publish(scope, [received])
    await place.checked()


async def test_nothing_is_published_twice_or_after_it_was_given_up(place: Place) -> None:
    one, other = await place.receive(), await place.receive()
    async with place.scope() as scope:
        await artifacts.publish(scope, [one])
    with pytest.raises(Conflict):
        async with place.scope() as scope:
            await artifacts.publish(scope, [one])
    await artifacts.discard(place.services, place.tenant_id, [one.artifact_id, other.artifact_id])
    with pytest.raises(Conflict):
        async with place.scope() as scope:
            await artifacts.publish(scope, [other])
    await place.settled()
    assert len(await place.blobs()) == 1


async def test_who_sees_what(place: Place) -> None:
    """The rule of visibility, for each kind of caller."""
    await check_who_sees_what(place)


@pytest.mark.parametrize("planted", ["nobody asked", "the grantee is the user", "every user is an admin"])
async def test_a_hole_in_who_sees_what_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    """The planted bugs of the rule."""

    def with_a_hole(scope: Scope, arguments: list[Any]) -> str:
        if planted == "the grantee is the user":
            return visible(replace(scope, grant_id=None), arguments)
        if planted == "every user is an admin" and scope.grant_id is None:
            return "true"
        return "true" if planted == "nobody asked" else visible(scope, arguments)

    visible = views.visible
    monkeypatch.setattr(views, "visible", with_a_hole)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await check_who_sees_what(place)


async def check_who_sees_what(place: Place) -> None:
    grant, other_grant = uuid4(), uuid4()
    mine = await place.store(name="mine")
    granted = await place.store(name="granted", grant_id=grant)
    theirs = await place.other().store(name="theirs")
    views = {
        "owner": (place.scope(), {mine, granted}),
        "admin": (place.scope(role="admin"), {mine, granted, theirs}),
        "grantee": (place.scope(grant_id=grant), {granted}),
        "another application": (place.scope(grant_id=other_grant), set()),
        "another user": (place.other().scope(), set()),
        "another tenant's admin": (place.stranger().scope(role="admin"), set()),
    }
    for who, (opened, expected) in views.items():
        async with opened as scope:
            listed = {found.artifact_id for found in await artifacts.list_artifacts(scope)}
            assert listed == {one.artifact_id for one in expected}, who
            for one in (mine, granted, theirs):
                if one in expected:
                    await artifacts.find(scope, one.artifact_id)
                    continue
                for refused in (artifacts.find, artifacts.delete):
                    with pytest.raises(NotFound):
                        await refused(scope, one.artifact_id)


async def test_deleted_means_no_key_no_blob_and_an_event(place: Place) -> None:
    _, public = new_recipient()
    stored = await place.store(recipients={"grant:x": public})
    async with place.scope() as scope:
        await artifacts.delete(scope, stored.artifact_id)
    assert await place.rows("artifact_keys") == await place.rows("artifact_recipients") == 0
    with pytest.raises(Gone):
        await place.content(stored)
    await place.settled()
    assert await place.blobs() == []
    assert await place.used() == 0
    async with place.scope() as scope:
        with pytest.raises(Gone):
            await artifacts.find(scope, stored.artifact_id)
        facts = await read_stream(scope, f"artifact:{stored.artifact_id}")
    assert [fact.type for fact in facts] == ["artifact.stored", "artifact.deleted"]
    assert facts[1].meta.actor == f"user:{place.user_id}"


async def test_all_of_an_operation_goes_at_once(place: Place) -> None:
    operation = uuid4()
    for name in ("a", "b", "held"):
        last = await place.store(name=name, operation_id=operation)
    kept = await place.store(name="another's", operation_id=uuid4())
    async with place.scope() as scope:
        await artifacts.hold(scope, last.artifact_id, "")
        assert await artifacts.delete_of_operation(scope, operation) == (2, 1)
    async with place.scope() as scope:
        left = {one.artifact_id for one in await artifacts.list_artifacts(scope)}
    assert left == {last.artifact_id, kept.artifact_id}
    await place.settled()


async def test_a_legal_hold_keeps_it_from_everybody(place: Place) -> None:
    stored = await place.store()
    async with place.scope(role="admin") as scope:
        scope.user_id = place.other().user_id
        held = await artifacts.hold(scope, stored.artifact_id, "a dispute")
        assert held.hold_reason == "a dispute"
    async with place.scope() as scope:
        with pytest.raises(Conflict):
            await artifacts.delete(scope, stored.artifact_id)
        with pytest.raises(Forbidden):
            await artifacts.release(scope, stored.artifact_id)
    async with place.scope(role="admin") as scope:
        await artifacts.release(scope, stored.artifact_id)
    async with place.scope() as scope:
        assert (await artifacts.hold(scope, stored.artifact_id, "my own")).held_by == f"user:{place.user_id}"
        scope.actor = Actor(ActorKind.API_KEY, uuid4())  # the same person with another credential
        assert (await artifacts.release(scope, stored.artifact_id)) is not None
        await artifacts.delete(scope, stored.artifact_id)
    await place.settled()


async def test_the_same_name_again_is_the_next_version(place: Place) -> None:
    grant = uuid4()
    first = await place.store(b"1", "report.md")
    second = await place.store(b"2", "report.md")
    renamed = await place.store(b"3", "final.md", version_of="report.md")
    granted = await place.store(b"4", "report.md", grant_id=grant)
    of_operation = await place.store(b"5", "report.md", operation_id=uuid4())
    assert [one.number for one in (first, second, renamed, granted, of_operation)] == [1, 2, 3, 1, 1]
    assert {one.series_id for one in (first, second, renamed)} == {first.artifact_id}
    async with place.scope() as scope:
        await artifacts.delete(scope, second.artifact_id)
    assert (await place.store(b"6", "final.md")).number == 4


NAMES = [
    "../../etc/passwd",
    "/absolute",
    "..",
    ".",
    "CON",
    "nul.txt",
    "C:\\Windows\\system32",
    "con\u202etxt.exe",
    "\u05e9\u05dc\u05d5\u05dd",
    "e\u0301",
    "\ufeffbom",
    "\U0001f4a9" * 63,
    " leading and trailing ",
    "a" * 255,
    "'; DROP TABLE artifacts; --",
    '"quoted"; filename=x',
    "%2e%2e%2f",
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_a_name_is_data(place: Place, name: str) -> None:
    stored = await place.store(b"x", name)
    assert stored.name == name
    assert await place.blobs() == [f"{place.tenant_id}/{stored.artifact_id}"]


@pytest.mark.parametrize("name", ["", "nul\0", "line\nbreak", "a" * 256, "\u00e9" * 128, "half \ud800", "\x7f", "\x85"])
async def test_what_cannot_be_stored_is_refused(place: Place, name: str) -> None:
    with pytest.raises(BadInput):
        await place.receive(b"x", name)
    assert await place.rows("incoming_artifacts") == 0


async def test_opening_is_recorded(place: Place) -> None:
    grant = uuid4()
    stored = await place.store(grant_id=grant)
    async with place.scope(grant_id=grant) as scope:
        await artifacts.take(scope, stored.artifact_id, "content", start=1, end=3)
    async with place.scope() as scope:
        facts = await read_stream(scope, f"artifact:{stored.artifact_id}")
    assert facts[-1].type == "artifact.opened"
    assert facts[-1].meta.actor == f"grantee:{place.user_id}"
    assert (facts[-1].event.start, facts[-1].event.end) == (1, 3)  # type: ignore[attr-defined]
