"""The board's items, and the teams that decide who sees them.

The owner's role may read the members of teams across tenants, for one function alone: which audiences do the holders of
live streams belong to.
"""

from __future__ import annotations

from retinue.database.migrations.policies import grant_function, script, tenant_table

revision = "0013_board"
down_revision = "0012_plans"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of the rooms ``tenancy`` (teams) and ``board``."""
    script(_TEAMS)
    tenant_table("teams", "SELECT, INSERT, UPDATE, DELETE")
    tenant_table("team_members", "SELECT, INSERT, DELETE")
    script("CREATE POLICY routing ON team_members FOR SELECT TO CURRENT_USER USING (true)")
    script(_STANDING)
    grant_function("tenancy_standing_teams(uuid[], uuid[])")
    script(_ITEMS)
    tenant_table("items", "SELECT, INSERT, UPDATE")
    tenant_table("item_comments", "SELECT, INSERT")
    tenant_table("item_links", "SELECT, INSERT, DELETE")
    tenant_table("board_policies", "SELECT, INSERT, UPDATE")


_TEAMS = """
CREATE TABLE teams (
    tenant_id  uuid NOT NULL,
    team_id    uuid NOT NULL,
    version    integer NOT NULL,
    name       text NOT NULL,
    name_key   text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, team_id),
    UNIQUE (tenant_id, name_key)
);
CREATE TABLE team_members (
    tenant_id uuid NOT NULL,
    team_id   uuid NOT NULL,
    user_id   uuid NOT NULL,
    joined_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, team_id, user_id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES teams (tenant_id, team_id) ON DELETE CASCADE
);
CREATE INDEX team_members_of_user ON team_members (tenant_id, user_id);
"""

_STANDING = """
-- The teams of many at once; element n of each array belongs to the n-th caller.
CREATE FUNCTION tenancy_standing_teams(p_tenant uuid[], p_user uuid[]) RETURNS TABLE (r_n bigint, r_team uuid)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT c.n, m.team_id FROM unnest(p_tenant, p_user) WITH ORDINALITY AS c (tenant, usr, n)
        JOIN team_members m ON m.tenant_id = c.tenant AND m.user_id = c.usr;
END $$;
"""

_ITEMS = """
CREATE TABLE items (
    tenant_id   uuid NOT NULL,
    item_id     uuid NOT NULL,
    version     integer NOT NULL,
    title       text NOT NULL,
    description text NOT NULL,
    state       text NOT NULL,
    priority    text NOT NULL,
    labels      text[] NOT NULL,
    due         timestamptz,
    team_id     uuid,
    assignee    text,
    parent_id   uuid,
    comments    integer NOT NULL DEFAULT 0,
    proposal    text,
    assigned_by uuid,
    run_due     boolean NOT NULL DEFAULT false,
    run_id      uuid,
    run_agent   uuid,
    run_status  text,
    created_by  text NOT NULL,
    creator_id  uuid,
    created_at  timestamptz NOT NULL,
    changed_at  timestamptz NOT NULL,
    deleted_at  timestamptz,
    search      tsvector GENERATED ALWAYS AS (
        setweight(to_tsvector('english'::regconfig, title), 'A')
        || setweight(to_tsvector('english'::regconfig, description), 'B')) STORED,
    PRIMARY KEY (tenant_id, item_id)
);
CREATE INDEX items_by_state ON items (tenant_id, state, item_id) WHERE deleted_at IS NULL;
CREATE INDEX items_by_assignee ON items (tenant_id, assignee, item_id) WHERE deleted_at IS NULL;
CREATE INDEX items_by_team ON items (tenant_id, team_id, item_id);
CREATE INDEX items_by_parent ON items (tenant_id, parent_id, item_id) WHERE parent_id IS NOT NULL;
CREATE INDEX items_by_due ON items (tenant_id, due) WHERE due IS NOT NULL AND deleted_at IS NULL;

CREATE TABLE item_comments (
    tenant_id  uuid NOT NULL,
    item_id    uuid NOT NULL,
    comment_id uuid NOT NULL,
    version    integer NOT NULL,
    author     text NOT NULL,
    text       text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, item_id, comment_id),
    FOREIGN KEY (tenant_id, item_id) REFERENCES items (tenant_id, item_id)
);
CREATE INDEX item_comments_in_order ON item_comments (tenant_id, item_id, version);

CREATE TABLE item_links (
    tenant_id uuid NOT NULL,
    item_id   uuid NOT NULL,
    link_id   uuid NOT NULL,
    kind      text NOT NULL,
    target    text NOT NULL,
    title     text NOT NULL,
    PRIMARY KEY (tenant_id, item_id, link_id),
    FOREIGN KEY (tenant_id, item_id) REFERENCES items (tenant_id, item_id)
);

CREATE TABLE board_policies (
    tenant_id uuid PRIMARY KEY,
    version   integer NOT NULL,
    policy    text NOT NULL
);
"""
