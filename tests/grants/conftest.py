"""The application with grants, in this process, for tests that move its clock or plant mistakes in it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from retinue.database import Database
from retinue.grants.room import ROOM as GRANTS
from retinue.identity.room import ROOM as IDENTITY
from retinue.tenancy.room import ROOM as TENANCY
from retinue.vault.room import ROOM as VAULT
from retinue_client import GranteeKey
from tests.grants.refusals import Desk
from tests.support.running import Person
from tests.support.signing import granted, wallet_of
from tests.support.site import Site, open_site

ROOMS = (VAULT, IDENTITY, TENANCY, GRANTS)


@pytest.fixture
async def site(database: Database, data_folder: Path) -> AsyncIterator[Site]:
    async with open_site(database, data_folder, ROOMS) as found:
        yield found


async def person_at(site: Site) -> Person:
    """Sign somebody up in this process."""
    account = await site.sign_up()
    return Person(account.client, {"tenant_id": str(account.tenant_id), "user_id": str(account.user_id)})


@pytest.fixture
async def ann(site: Site) -> Person:
    return await person_at(site)


@pytest.fixture
async def desk(site: Site, ann: Person) -> Desk:
    found = await desk_at("http://test", site.client, ann, await person_at(site))
    return replace(found, now=lambda: site.clock.now().timestamp())


async def desk_at(base_url: str, client: httpx.AsyncClient, ann: Person, bob: Person) -> Desk:
    """Return a desk with grants of ann for one application and a wallet, and one of bob for another."""
    key, stranger, secret = GranteeKey.make(), GranteeKey.make(), os.urandom(32)
    return Desk(
        client=client,
        base_url=base_url,
        key=key,
        grant_id=(await granted(ann, key))["grant_id"],
        stranger=stranger,
        strangers_grant=(await granted(bob, stranger))["grant_id"],
        wallet_secret=secret,
        wallets_grant=(await granted(ann, wallet_of(secret)))["grant_id"],
    )
