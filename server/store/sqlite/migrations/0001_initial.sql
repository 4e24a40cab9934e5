-- Times are ms since the epoch, ids are UUIDs in lower case, metadata and the like are compact JSON text.

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    -- NULL where the agent leaves it to the environment's default.
    timeout_minutes REAL,
    auto_renew INTEGER,
    max_duration_minutes REAL,
    warning_threshold_minutes REAL
) STRICT;

CREATE INDEX agents_by_creation ON agents (created_at_ms, id);

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    channel_id TEXT NOT NULL UNIQUE,
    agent_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    timeout_minutes REAL NOT NULL,
    auto_renew INTEGER NOT NULL,
    max_duration_minutes REAL NOT NULL,
    warning_threshold_minutes REAL NOT NULL,
    created_at_ms INTEGER NOT NULL,
    last_activity_ms INTEGER NOT NULL,
    renewed_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    renewal_count INTEGER NOT NULL,
    warned INTEGER NOT NULL,
    expired INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    last_entry_ms INTEGER NOT NULL,
    -- When something next happens by itself; NULL once the expiry is in the log.
    due_at_ms INTEGER
) STRICT;

CREATE INDEX sessions_by_creation ON sessions (created_at_ms, id);
CREATE INDEX sessions_by_expiry ON sessions (expires_at_ms);
CREATE INDEX sessions_by_due ON sessions (due_at_ms) WHERE due_at_ms IS NOT NULL;

-- The log of each session: its messages and whatever else happened to it, in one sequence.
CREATE TABLE log (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    -- How the session stood right after.
    expires_at_ms INTEGER NOT NULL,
    renewal_count INTEGER NOT NULL,
    was_renewed INTEGER NOT NULL,
    is_near_expiration INTEGER NOT NULL,
    -- What follows is set for a message only.
    message_id TEXT,
    is_agent INTEGER,
    content TEXT,
    metadata TEXT,
    attachments TEXT,
    -- JSON: a string, and an array of strings.
    thought TEXT,
    actions TEXT
) STRICT;

CREATE UNIQUE INDEX log_by_sequence ON log (session_id, sequence);
CREATE UNIQUE INDEX log_of_messages ON log (session_id, at_ms) WHERE message_id IS NOT NULL;

-- Agents that were registered once in the life of the store, without anybody asking.
CREATE TABLE seeded_agents (
    id TEXT PRIMARY KEY
) STRICT;
