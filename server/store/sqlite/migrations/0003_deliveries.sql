-- The way of each user's message to the agent.
CREATE TABLE deliveries (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    -- Of the message in the log.
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    -- While pending, not before; while leased, the end of the lease; else NULL.
    due_at_ms INTEGER,
    PRIMARY KEY (session_id, sequence)
) STRICT, WITHOUT ROWID;

-- Messages from before have their replies, or nobody waits for them any more.
INSERT INTO deliveries SELECT session_id, sequence, 'answered', 0, NULL FROM log WHERE message_id IS NOT NULL AND NOT is_agent;

CREATE INDEX deliveries_open ON deliveries (session_id, sequence) WHERE state IN ('pending', 'leased');

-- The sequence of the user's message that a reply answers; NULL for everything else.
ALTER TABLE log ADD COLUMN answers INTEGER;
CREATE UNIQUE INDEX log_of_replies ON log (session_id, answers) WHERE answers IS NOT NULL;
-- What a reply_failure reports, as JSON; NULL for every other kind of entry.
ALTER TABLE log ADD COLUMN failure TEXT;

-- What belongs to the agent's kind, as JSON; NULL for a kind that has nothing of its own.
ALTER TABLE agents ADD COLUMN settings TEXT;
