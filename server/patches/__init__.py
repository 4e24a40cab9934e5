"""Uses of private names, one module a library: the reason, a check of the names, and the fallback."""
