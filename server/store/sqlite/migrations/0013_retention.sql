-- How long an agent's sessions are kept once they have expired; NULL: as long as the setting says.
ALTER TABLE agents ADD COLUMN retention_minutes REAL;
-- That of the agent when the session was created.
ALTER TABLE sessions ADD COLUMN retention_ms INTEGER;

-- What the purge looks for: each index has only the sessions that are its own, in the order of their purge.
DROP INDEX sessions_expired;
CREATE INDEX sessions_expired ON sessions (expires_at_ms) WHERE expired AND retention_ms IS NULL;
CREATE INDEX sessions_kept ON sessions (expires_at_ms + retention_ms) WHERE expired AND retention_ms IS NOT NULL;
