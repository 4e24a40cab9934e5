-- Sessions that are gone, of which log, deliveries and requests may still have rows: the purge takes these in small steps.
-- So the foreign keys to sessions are not enforced any more: ON DELETE CASCADE would take all rows at once.
CREATE TABLE removed_sessions (
    id TEXT PRIMARY KEY
) STRICT;

-- What the purge looks for: it does not pass over the sessions whose expiry is yet to be written.
CREATE INDEX sessions_expired ON sessions (expires_at_ms) WHERE expired;
-- It took the place of this one, which every message wrote.
DROP INDEX sessions_by_expiry;
