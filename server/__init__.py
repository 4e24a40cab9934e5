"""The service behind the API: rules, store, life cycle, agents, RPCs, and the command that runs them."""
