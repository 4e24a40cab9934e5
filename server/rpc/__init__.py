"""The gRPC surface: thin servicers (message in, rule or store, message out) and the call pipeline around
them.
"""
