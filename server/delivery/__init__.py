"""Deliveries on their way to agents: whose turn it is, one attempt at a reply, and how agents fare."""
