"""The Store on a SQLite file of this process alone."""
