"""Agents: the kinds there are (`kinds`), how messages get to them (`delivery`), and what is registered at a start (`registry`)."""
