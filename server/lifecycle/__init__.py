"""What happens by itself: warnings and expiries (`deadlines`), the purge of old records (`purge`), and who is
told of what (`watch`).
"""
