-- The settings from a timeout_change on, as JSON; NULL for every other kind of entry.
ALTER TABLE log ADD COLUMN timeout_config TEXT;
