-- The first open delivery of the session, and from when on it may be given (0 while it is leased); NULL: none is open.
ALTER TABLE sessions ADD COLUMN head_sequence INTEGER;
ALTER TABLE sessions ADD COLUMN head_due_ms INTEGER;

UPDATE sessions SET (head_sequence, head_due_ms) = (
    SELECT sequence, iif(state = 'leased', 0, deliveries.due_at_ms) FROM deliveries INDEXED BY deliveries_open
    WHERE session_id = sessions.id AND state IN ('pending', 'leased') ORDER BY sequence LIMIT 1
) WHERE open_deliveries > 0;

-- What an agent may be given next, in order.
CREATE INDEX sessions_by_head ON sessions (agent_id, head_due_ms, head_sequence) WHERE head_due_ms IS NOT NULL;
