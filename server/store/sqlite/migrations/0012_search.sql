-- How many messages of the session have failed for good and can be delivered anew; 0 once it has expired.
ALTER TABLE sessions ADD COLUMN failed_deliveries INTEGER NOT NULL DEFAULT 0;

UPDATE sessions SET failed_deliveries = counted.failed FROM (
    SELECT session_id, count(*) AS failed FROM deliveries WHERE state = 'failed' GROUP BY session_id
) AS counted WHERE sessions.id = counted.session_id AND NOT expired;

-- What an operator may deliver anew, by agent. Nothing but a failure writes these.
CREATE INDEX sessions_failed ON sessions (agent_id, tenant, created_at_ms, id) WHERE failed_deliveries > 0;
CREATE INDEX deliveries_failed ON deliveries (session_id, sequence) WHERE state = 'failed';

-- Expired sessions are searched as live ones are. A session is written here when it expires, and not before.
CREATE INDEX sessions_ended ON sessions (tenant, created_at_ms, id) WHERE expired;
CREATE INDEX sessions_ended_of_agent ON sessions (agent_id, tenant, created_at_ms, id) WHERE expired;
