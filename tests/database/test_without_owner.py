"""A server that does not have the owner's password."""

from __future__ import annotations

from retinue.database import current_revision, expected_revision
from tests.support.databases import Cluster


async def test_the_application_can_read_at_which_revision_the_schema_is(postgres: Cluster, database_name: str) -> None:
    assert await current_revision(postgres.dsn(database_name)) == expected_revision()
