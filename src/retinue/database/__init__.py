"""PostgreSQL: the embedded server, roles, migrations, and the one way to a transaction."""

from retinue.database.database import Database
from retinue.database.embedded import EmbeddedPostgres, FolderInUse
from retinue.database.faults import translated
from retinue.database.migrate import current_revision, expected_revision, migrate
from retinue.database.roles import prepare_database
from retinue.database.scopes import open_scope
from retinue.database.selfcheck import self_check

__all__ = [
    "Database",
    "EmbeddedPostgres",
    "FolderInUse",
    "current_revision",
    "expected_revision",
    "migrate",
    "open_scope",
    "prepare_database",
    "self_check",
    "translated",
]
