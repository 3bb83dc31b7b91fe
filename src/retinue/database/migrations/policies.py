"""What every revision uses: scripts of several statements, and the fence around a tenant's rows."""

from __future__ import annotations

from typing import Any

from alembic import op

from retinue.database.roles import APPLICATION


def script(sql: str) -> None:
    """Run ``sql``, which may hold several statements and bodies of functions, inside the migration's transaction."""
    adapted: Any = op.get_bind().connection.dbapi_connection
    adapted.run_async(lambda driver: driver.execute(sql))


def tenant_table(table: str, privileges: str = "SELECT, INSERT, UPDATE, DELETE") -> None:
    """Fence ``table`` by its ``tenant_id``: row-level security on, forced on the owner too, one policy for all.

    The policy compares with the transaction's ``app.tenant_id``; without one, no row is visible and none can be
    written. The application's role gets ``privileges``.
    """
    script(f"""
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
    CREATE POLICY tenant_rows ON {table}
        USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)
        WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);
    """)
    grant(table, privileges)


def grant(table: str, privileges: str) -> None:
    """Give the application's role ``privileges`` on ``table``."""
    script(f"GRANT {privileges} ON {table} TO {APPLICATION}")


def grant_function(signature: str) -> None:
    """Let the application's role, and nobody else, call a function such as ``"f(uuid, text)"``."""
    script(f"""
    REVOKE ALL ON FUNCTION {signature} FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION {signature} TO {APPLICATION};
    """)
