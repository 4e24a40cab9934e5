-- Times are ms since the epoch, ids are UUIDs, metadata and the like are JSON text that nothing is asked about.
-- Every table of a session is led by its id. No sequences, no triggers, no foreign keys: the tables can be sharded by it.

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL,
    created_at_ms bigint NOT NULL,
    updated_at_ms bigint NOT NULL,
    -- NULL where the agent leaves it to the environment's default.
    timeout_minutes float8,
    auto_renew boolean,
    max_duration_minutes float8,
    warning_threshold_minutes float8,
    -- What belongs to the agent's kind, as JSON; NULL for a kind that has nothing of its own.
    settings text,
    -- How long its sessions are kept once they have expired; NULL: as long as the setting says.
    retention_minutes float8,
    -- Whose it is. An agent without a tenant belongs to all of them.
    tenant text COLLATE "C" NOT NULL
);
CREATE INDEX agents_by_creation ON agents (created_at_ms, id);
CREATE INDEX agents_of_tenant ON agents (tenant, created_at_ms, id);

-- Agents that were registered once in the life of the store, without anybody asking.
CREATE TABLE seeded_agents (id uuid PRIMARY KEY);

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    channel_id uuid NOT NULL,
    agent_id uuid NOT NULL,
    user_id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    metadata text NOT NULL,
    timeout_minutes float8 NOT NULL,
    auto_renew boolean NOT NULL,
    max_duration_minutes float8 NOT NULL,
    warning_threshold_minutes float8 NOT NULL,
    created_at_ms bigint NOT NULL,
    last_activity_ms bigint NOT NULL,
    renewed_at_ms bigint NOT NULL,
    expires_at_ms bigint NOT NULL,
    renewal_count integer NOT NULL,
    warned boolean NOT NULL,
    expired boolean NOT NULL,
    last_sequence bigint NOT NULL,
    last_entry_ms bigint NOT NULL,
    -- How many deliveries are open.
    open_deliveries integer NOT NULL,
    -- How many bytes of content, metadata and attachments its messages have.
    stored_bytes bigint NOT NULL,
    -- How many messages have failed for good and can be delivered anew; 0 once the session has expired.
    failed_deliveries integer NOT NULL,
    -- The retention of its agent when it was created.
    retention_ms bigint,
    -- Not later than the instant at which something happens by itself; NULL once the expiry is in the log.
    due_at_ms bigint,
    -- The expiry, once it is in the log: what the purge looks for. `expires_at_ms` must not be indexed: each
    -- message changes it.
    expired_at_ms bigint,
    -- The same of a session with a retention of its own: when that ends.
    kept_until_ms bigint
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

-- Not unique: our channels are random, and no shard could check it.
CREATE INDEX sessions_by_channel ON sessions (channel_id);
-- Nothing that a message changes is indexed, so that its update stays within the row's page.
CREATE INDEX sessions_by_due ON sessions (due_at_ms) WHERE due_at_ms IS NOT NULL;
CREATE INDEX sessions_live ON sessions (tenant, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_agent ON sessions (agent_id, tenant, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_user ON sessions (user_id, tenant, expired, created_at_ms, id);
CREATE INDEX sessions_of_agent_and_user ON sessions (agent_id, user_id, tenant, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_expired ON sessions (expired_at_ms, id) WHERE expired_at_ms IS NOT NULL;
CREATE INDEX sessions_kept ON sessions (kept_until_ms, id) WHERE kept_until_ms IS NOT NULL;
CREATE INDEX sessions_ended ON sessions (tenant, created_at_ms, id) WHERE expired;
CREATE INDEX sessions_ended_of_agent ON sessions (agent_id, tenant, created_at_ms, id) WHERE expired;
CREATE INDEX sessions_failed ON sessions (agent_id, tenant, created_at_ms, id) WHERE failed_deliveries > 0;

-- Sessions that are gone, of which log, deliveries and requests may still have rows: the purge takes these in small steps.
CREATE TABLE removed_sessions (id uuid PRIMARY KEY);

-- The log of each session: its messages and whatever else happened to it, in one sequence.
CREATE TABLE log (
    session_id uuid NOT NULL,
    sequence bigint NOT NULL,
    at_ms bigint NOT NULL,
    kind text NOT NULL,
    -- How the session stood right after.
    expires_at_ms bigint NOT NULL,
    renewal_count integer NOT NULL,
    was_renewed boolean NOT NULL,
    is_near_expiration boolean NOT NULL,
    -- How much text the entry holds, in code points: what a page counts without reading it.
    size integer NOT NULL,
    -- What follows is set for a message only.
    message_id text,
    is_agent boolean,
    content text,
    metadata text,
    attachments text,
    -- JSON: a string, and an array of strings.
    thought text,
    actions text,
    -- The sequence of the user's message that a reply answers.
    answers bigint,
    -- The settings from a timeout_change on, as JSON.
    timeout_config text,
    -- What a reply_failure reports, as JSON, and the sequence of the message that it is about.
    failure text,
    failed_sequence bigint,
    PRIMARY KEY (session_id, sequence)
);
CREATE UNIQUE INDEX log_of_messages ON log (session_id, at_ms) WHERE message_id IS NOT NULL;
CREATE UNIQUE INDEX log_of_replies ON log (session_id, answers) WHERE answers IS NOT NULL;
CREATE INDEX log_of_failures ON log (session_id, failed_sequence) WHERE failed_sequence IS NOT NULL;
-- Where a message belongs in the conversation: a reply with the message that it answers.
CREATE INDEX log_by_place ON log (session_id, coalesce(answers, sequence), sequence) WHERE message_id IS NOT NULL;

-- The way of each user's message to the agent.
CREATE TABLE deliveries (
    session_id uuid NOT NULL,
    -- Of the message in the log.
    sequence bigint NOT NULL,
    agent_id uuid NOT NULL,
    state text NOT NULL,
    attempts integer NOT NULL,
    -- While pending, not before; while leased, the end of the lease; else NULL.
    due_at_ms bigint,
    -- Attempts that a lost connection ended before anything was heard.
    lost_connections integer NOT NULL,
    -- The last attempt that came to nothing, as JSON, for the operator.
    last_failure text,
    -- Where the call that brought the message is in its trace; NULL: nowhere.
    trace text,
    -- From when on the delivery may be given. NULL: an earlier one of the session is open, or a server has it.
    head_due_ms bigint,
    -- The server that has it, see `replicas`.
    holder uuid,
    PRIMARY KEY (session_id, sequence)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX deliveries_open ON deliveries (session_id, sequence) WHERE state IN ('pending', 'leased');
CREATE INDEX deliveries_due ON deliveries (agent_id, head_due_ms, sequence, session_id) WHERE head_due_ms IS NOT NULL;
CREATE INDEX deliveries_failed ON deliveries (session_id, sequence) WHERE state = 'failed';
CREATE INDEX deliveries_in_hand ON deliveries (agent_id, sequence, session_id) WHERE holder IS NOT NULL;
CREATE INDEX deliveries_held ON deliveries (holder, agent_id) WHERE holder IS NOT NULL;

-- Calls with a request id, each written in the transaction of its effect, so that a retry finds its first answer.
CREATE TABLE requests (
    scope text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    -- JSON: the sequence of the message, or the session as it was created.
    answer text NOT NULL,
    created_at_ms bigint NOT NULL,
    -- The session that the request made, or that it sent a message to.
    session_id uuid NOT NULL,
    PRIMARY KEY (scope, id)
);
CREATE INDEX requests_by_age ON requests (created_at_ms);
CREATE INDEX requests_by_session ON requests (session_id);

-- How many sessions there are, by their state: live, of these warned, and expired; the sum over the lanes counts.
-- A row of the state 'quota' or 'agents' is there for its lock, which holds the quota of a user, or of a tenant.
CREATE TABLE session_counts (
    state text COLLATE "C" NOT NULL,
    -- Empty: of any agent, of any user.
    agent_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    -- Each lane changes rows of its own, but for a user's, which all share.
    lane integer NOT NULL,
    sessions bigint NOT NULL,
    PRIMARY KEY (state, agent_id, user_id, tenant, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- The token of each transaction that writes, so that one whose end nobody was told of is found, or kept from ending well.
CREATE TABLE commits (
    -- Ordered by time: the old ones are a range.
    token uuid PRIMARY KEY,
    -- Whether the transaction itself wrote it; else it was given up, and cannot commit any more.
    done boolean NOT NULL
);

-- The servers that run. A lease is good for as long as its holder's row.
CREATE TABLE replicas (
    id uuid PRIMARY KEY,
    slot integer NOT NULL,
    schema_version integer NOT NULL,
    alive_until_ms bigint NOT NULL,
    -- The latest change of the test clock that it has seen.
    seen_clock bigint NOT NULL
);

-- The service's time in tests; without a row it is the server's.
CREATE TABLE test_clock (
    one boolean PRIMARY KEY CHECK (one),
    now_ms bigint NOT NULL,
    changes bigint NOT NULL
);
