-- Attempts that a lost connection ended before anything was heard: they are not among the attempts.
ALTER TABLE deliveries ADD COLUMN lost_connections INTEGER NOT NULL DEFAULT 0;
-- The last attempt that came to nothing, as JSON, for the operator; NULL where there was none.
ALTER TABLE deliveries ADD COLUMN last_failure TEXT;
