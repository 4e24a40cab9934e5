"""What users of the API need in Python: the stubs in `v1`, errors, limits, times, values."""
