-- Where a message belongs in the conversation: a reply with the message that it answers.
ALTER TABLE log ADD COLUMN place INTEGER GENERATED ALWAYS AS (coalesce(answers, sequence)) VIRTUAL;
CREATE INDEX log_by_place ON log (session_id, place, sequence) WHERE message_id IS NOT NULL;

-- The sequence of the user's message that a reply_failure is about; NULL for everything else.
ALTER TABLE log ADD COLUMN failed_sequence INTEGER
    GENERATED ALWAYS AS (iif(json_valid(failure), failure ->> 'message_sequence', NULL)) VIRTUAL;
CREATE INDEX log_of_failures ON log (session_id, failed_sequence) WHERE failed_sequence IS NOT NULL;

-- Lists give out live sessions only, in the order of their creation.
DROP INDEX sessions_by_creation;
CREATE INDEX sessions_live ON sessions (created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_agent ON sessions (agent_id, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_user ON sessions (user_id, created_at_ms, id) WHERE NOT expired;
CREATE INDEX sessions_of_agent_and_user ON sessions (agent_id, user_id, created_at_ms, id) WHERE NOT expired;

-- How many sessions there are, by their state: live, of these warned, and expired.
-- A count that has come down to 0 is removed.
CREATE TABLE session_counts (
    state TEXT NOT NULL,
    -- Empty: of any agent, of any user. Only live ones are counted by these.
    agent_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    sessions INTEGER NOT NULL,
    PRIMARY KEY (state, agent_id, user_id)
) STRICT, WITHOUT ROWID;

INSERT INTO session_counts SELECT state, agent_id, user_id, count(*) FROM (
    SELECT iif(expired, 'expired', 'live') AS state, '' AS agent_id, '' AS user_id FROM sessions
    UNION ALL SELECT 'warned', '', '' FROM sessions WHERE warned AND NOT expired
    UNION ALL SELECT 'live', agent_id, '' FROM sessions WHERE NOT expired
    UNION ALL SELECT 'live', '', user_id FROM sessions WHERE NOT expired
    UNION ALL SELECT 'live', agent_id, user_id FROM sessions WHERE NOT expired
) GROUP BY state, agent_id, user_id;
