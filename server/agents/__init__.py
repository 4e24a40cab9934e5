"""Agents: the kinds there are (`kinds`, `workers`, `webhook`, `openai`), and what is registered at a start
(`registry`)."""
