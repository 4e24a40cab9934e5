"""Agents: the connectors of all kinds, their secrets and hosts, and the file of agents."""
