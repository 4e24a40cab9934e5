"""What happens by itself: warnings and expiries when they fall due (`deadlines`), and the purge of old records (`purge`)."""
