"""The gRPC surface: thin servicers (a message in, a call of the store or of a rule, a message out) and what
stands around them.
"""
