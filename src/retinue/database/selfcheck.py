"""The start-up check: does the database really keep tenants apart, for the role this process is connected as?

The server refuses to start when it does not. A forgotten policy, a plain unique key or a connection as the owner
would show nothing in use, until one tenant reads another's rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from retinue.kernel import Queries, Row

# Ids and routing of work, read across tenants by the workers; never content.
EXEMPT_SCHEMAS: Final = frozenset({"dispatch"})

# Belong to no tenant. A table that is neither here nor has a tenant_id is a finding: somebody forgot one of the two.
GLOBAL_TABLES: Final = frozenset({"alembic_version", "users", "user_issuers", "logins", "server_keys"})

# Read across tenants by narrow functions of the owner: who is at home where.
ROUTING_TABLES: Final = frozenset({"api_keys", "grants", "members", "team_members", "tenants", "tenant_keys"})

FENCE: Final = "(tenant_id = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"


async def self_check(queries: Queries) -> list[str]:
    """Return what is wrong for the role of this connection, one line each that names the thing; empty when all is well.

    The server must not start on a database with findings.
    """
    found: list[str] = []
    for check in _CHECKS:
        found.extend(await check(queries))
    return found


async def _role(queries: Queries) -> Iterable[str]:
    row = await queries.fetchrow("SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
    if row is None:
        return ["role: the role of this connection does not exist"]
    name, found = row["rolname"], []
    if row["rolsuper"]:
        found.append(f"role {name}: is a superuser, whom row-level security does not bind; connect as retinue_app")
    if row["rolbypassrls"]:
        found.append(f"role {name}: has BYPASSRLS; run ALTER ROLE {name} NOBYPASSRLS or connect as retinue_app")
    owned = await queries.fetchval(
        f"SELECT min(c.oid::regclass::text) {_TABLES} AND pg_has_role(current_user, c.relowner, 'MEMBER')"
        " AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    )
    if owned is not None:
        found.append(f"role {name}: owns {owned} or belongs to its owner and could lift the fence; use another role")
    return found


# Tables of the product: in every schema but the system's and the exempt ones.
_TABLES = f"""
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname NOT IN ('information_schema', '{"', '".join(EXEMPT_SCHEMAS)}')
    AND n.nspname NOT LIKE 'pg\\_%' AND c.relpersistence <> 't'
"""

_HAS_TENANT = """
EXISTS (SELECT 1 FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnum > 0 AND NOT a.attisdropped)
"""


async def _tenant_tables(queries: Queries) -> Iterable[str]:
    rows = await queries.fetch(
        f"SELECT c.oid::regclass::text AS name, c.relrowsecurity AS fenced, c.relforcerowsecurity AS forced, "
        f"{_HAS_TENANT} AS tenant {_TABLES} ORDER BY 1"
    )
    return [line for row in rows for line in _about_table(row)]


def _about_table(row: Row) -> Iterable[str]:
    name = row["name"]
    if not row["tenant"]:
        if name not in GLOBAL_TABLES:
            yield f"table {name}: has no tenant_id and is not among the tables that belong to no tenant"
        return
    if not row["fenced"]:
        yield f"table {name}: row-level security is off; run ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"
    if not row["forced"]:
        yield f"table {name}: its owner is not bound; run ALTER TABLE {name} FORCE ROW LEVEL SECURITY"


async def _policies(queries: Queries) -> Iterable[str]:
    rows = await queries.fetch(
        f"""
        SELECT c.oid::regclass::text AS name, p.polname AS policy, p.polcmd::text AS command,
               p.polpermissive AS permissive,
               p.polroles = '{{0}}' OR EXISTS (SELECT 1 FROM unnest(p.polroles) r
                   WHERE r = 0 OR pg_has_role(current_user, r, 'MEMBER')) AS ours,
               pg_get_expr(p.polqual, p.polrelid) AS shown, pg_get_expr(p.polwithcheck, p.polrelid) AS written
        {_TABLES.replace("WHERE", "LEFT JOIN pg_policy p ON p.polrelid = c.oid WHERE", 1)} AND {_HAS_TENANT}
        ORDER BY 1, 2
        """
    )
    fenced = {row["name"] for row in rows if row["policy"] and row["ours"] and _is_fence(row)}
    found = [f"table {name}: no policy fences its tenants" for name in sorted({row["name"] for row in rows} - fenced)]
    return found + [line for row in rows if row["policy"] is not None for line in _about_policy(row)]


def _is_fence(row: Row) -> bool:
    return bool(row["permissive"] and row["command"] == "*" and row["shown"] == row["written"] == FENCE)


def _about_policy(row: Row) -> Iterable[str]:
    """A permissive policy widens what others allow; only the fence itself may be one for this role."""
    if not row["permissive"] or _is_fence(row):
        return
    if row["ours"]:
        yield f"table {row['name']}: the policy {row['policy']} lets this role see more than one tenant's rows"
    elif row["name"] not in ROUTING_TABLES or row["command"] != "r":
        yield f"table {row['name']}: the policy {row['policy']} lets another role past the fence"


async def _keys(queries: Queries) -> Iterable[str]:
    unique = await queries.fetch(
        f"""
        SELECT c.oid::regclass::text AS name, i.indexrelid::regclass::text AS key
        {_TABLES.replace("WHERE", "JOIN pg_index i ON i.indrelid = c.oid WHERE", 1)} AND {_HAS_TENANT}
            AND i.indisunique AND (SELECT a.attname FROM pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum = i.indkey[0]) IS DISTINCT FROM 'tenant_id'
        ORDER BY 1, 2
        """
    )
    foreign = await queries.fetch(
        f"""
        SELECT c.oid::regclass::text AS name, k.conname AS key
        {_TABLES.replace("WHERE", "JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' WHERE", 1)}
            AND {_HAS_TENANT} AND NOT EXISTS (
                SELECT 1 FROM pg_attribute here JOIN pg_attribute there
                    ON there.attrelid = k.confrelid AND there.attnum = k.confkey[1] AND there.attname = 'tenant_id'
                WHERE here.attrelid = k.conrelid AND here.attnum = k.conkey[1] AND here.attname = 'tenant_id')
        ORDER BY 1, 2
        """
    )
    return [
        *(f"table {row['name']}: the unique key {row['key']} does not start with tenant_id" for row in unique),
        *(f"table {row['name']}: the foreign key {row['key']} does not start with tenant_id" for row in foreign),
    ]


async def _views(queries: Queries) -> Iterable[str]:
    rows = await queries.fetch(
        f"""
        SELECT c.oid::regclass::text AS name, c.relkind = 'm' AS stored
        {_TABLES.replace("('r', 'p', 'f')", "('v', 'm')", 1)}
            AND NOT (c.relkind = 'v' AND EXISTS (SELECT 1 FROM unnest(c.reloptions) o
                WHERE o IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=1')))
        ORDER BY 1
        """
    )
    return [
        f"view {row['name']}: is stored, and row-level security does not reach its rows"
        if row["stored"]
        else f"view {row['name']}: reads with its owner's rights; create it WITH (security_invoker = true)"
        for row in rows
    ]


async def _functions(queries: Queries) -> Iterable[str]:
    rows = await queries.fetch(
        """
        SELECT p.oid::regprocedure::text AS name,
               EXISTS (SELECT 1 FROM unnest(p.proconfig) s WHERE s LIKE 'search_path=%') AS fixed,
               has_function_privilege('public', p.oid, 'EXECUTE') AS everybody
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
        ORDER BY 1
        """
    )
    found = []
    for row in rows:
        if not row["fixed"]:
            found.append(f"function {row['name']}: runs with its owner's rights and its caller's search_path; set one")
        if row["everybody"]:
            found.append(f"function {row['name']}: runs with its owner's rights for everybody; revoke it from PUBLIC")
    return found


_CHECKS: tuple[Callable[[Queries], Awaitable[Iterable[str]]], ...] = (
    _role,
    _tenant_tables,
    _policies,
    _keys,
    _views,
    _functions,
)
