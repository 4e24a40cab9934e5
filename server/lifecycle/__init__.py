"""The life of sessions as time passes: expiry, the purge, and the watches of their logs."""
