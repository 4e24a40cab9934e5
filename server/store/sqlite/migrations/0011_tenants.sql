-- Whose a session and an agent is. An agent without a tenant belongs to all of them.
ALTER TABLE sessions ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
ALTER TABLE agents ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
-- How many bytes of content, metadata and attachments its messages have, counted from now on.
ALTER TABLE sessions ADD COLUMN stored_bytes INTEGER NOT NULL DEFAULT 0;

CREATE INDEX agents_of_tenant ON agents (tenant, created_at_ms, id);

-- Lists are those of a tenant; those of all tenants are merged. A user's data are also looked for without a tenant, and expired.
DROP INDEX sessions_live;
DROP INDEX sessions_of_agent;
DROP INDEX sessions_of_user;
DROP INDEX sessions_of_agent_and_user;
CREATE INDEX sessions_live ON sessions (tenant, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_agent ON sessions (agent_id, tenant, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_user ON sessions (user_id, tenant, expired, created_at_ms, id);
CREATE INDEX sessions_of_agent_and_user ON sessions (agent_id, user_id, tenant, created_at_ms, id) WHERE NOT expired;

-- Expired ones are counted by agent and user, too.
DROP TABLE session_counts;
CREATE TABLE session_counts (
    state TEXT NOT NULL,
    -- Empty: of any agent, of any user.
    agent_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (state, agent_id, user_id, tenant)
) STRICT, WITHOUT ROWID;

INSERT INTO session_counts SELECT state, agent_id, user_id, '', count(*) FROM (
    SELECT iif(expired, 'expired', 'live') AS state, '' AS agent_id, '' AS user_id FROM sessions
    UNION ALL SELECT 'warned', '', '' FROM sessions WHERE warned AND NOT expired
    UNION ALL SELECT iif(expired, 'expired', 'live'), agent_id, '' FROM sessions
    UNION ALL SELECT iif(expired, 'expired', 'live'), '', user_id FROM sessions
    UNION ALL SELECT iif(expired, 'expired', 'live'), agent_id, user_id FROM sessions
) GROUP BY state, agent_id, user_id;

-- Rows that were removed before have left their bytes in the file until it is rewritten once; see `rewrite`.
CREATE TABLE pending_rewrite (
    since_schema INTEGER NOT NULL
) STRICT;
INSERT INTO pending_rewrite SELECT 11 WHERE EXISTS (
    SELECT 1 FROM seeded_agents UNION ALL SELECT 1 FROM agents UNION ALL SELECT 1 FROM sessions
);
