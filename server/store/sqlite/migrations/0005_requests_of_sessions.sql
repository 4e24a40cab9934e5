-- What a session left in the table of requests goes with it: the keys of its messages, and the key of its own creation.
ALTER TABLE requests RENAME TO old_requests;
CREATE TABLE requests (
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    -- JSON: the sequence of the message, or the session as it was created.
    answer TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    -- The session that the request made, or that it sent a message to.
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;

-- What is left of sessions that are gone by now is not taken over.
INSERT INTO requests
SELECT scope, old_requests.id, fingerprint, answer, old_requests.created_at_ms, sessions.id
FROM old_requests JOIN sessions ON sessions.id = CASE
    WHEN scope GLOB 'session:*' THEN substr(scope, length('session:') + 1)
    WHEN json_valid(answer) AND json_type(answer) = 'object' THEN answer ->> 'id'
END;
DROP TABLE old_requests;

CREATE INDEX requests_by_age ON requests (created_at_ms);
CREATE INDEX requests_by_session ON requests (session_id);
