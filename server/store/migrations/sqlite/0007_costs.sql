-- Where a message belongs in the conversation: a reply with the message that it answers.
ALTER TABLE log ADD COLUMN place INTEGER GENERATED ALWAYS AS (coalesce(answers, sequence)) VIRTUAL;
CREATE INDEX log_by_place ON log (session_id, place, sequence) WHERE message_id IS NOT NULL;

-- The sequence of the user's message that a reply_failure is about; NULL for everything else.
ALTER TABLE log ADD COLUMN failed_sequence INTEGER
    GENERATED ALWAYS AS (iif(json_valid(failure), failure ->> 'message_sequence', NULL)) VIRTUAL;
CREATE INDEX log_of_failures ON log (session_id, failed_sequence) WHERE failed_sequence IS NOT NULL;
