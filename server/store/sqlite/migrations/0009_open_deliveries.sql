-- How many deliveries of the session are open.
ALTER TABLE sessions ADD COLUMN open_deliveries INTEGER NOT NULL DEFAULT 0;

UPDATE sessions SET open_deliveries = counted.open FROM (
    SELECT session_id, count(*) AS open FROM deliveries WHERE state IN ('pending', 'leased') GROUP BY session_id
) AS counted WHERE sessions.id = counted.session_id;
