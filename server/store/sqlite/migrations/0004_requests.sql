-- Calls with a request id, each written in the transaction of its effect, so that a retry finds its first answer.
CREATE TABLE requests (
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    -- JSON: the sequence of the message, or the session as it was created.
    answer TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    PRIMARY KEY (scope, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_age ON requests (created_at_ms);
