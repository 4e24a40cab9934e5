"""What rests on private names of a library, one module a library: the reason, a check of the names, and what
is done without them.
"""
