"""Numbers for people."""


def amount(value: float) -> str:
    """Writes a number with about three digits, never as a power of ten: `0.05`, `12.8`, `12800`."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 3):.3g}"
