"""Numbers in words for people."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """75.2 -> '1 min 15 s'."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def small(value: float | None) -> str:
    """0.00123 -> '0.00123', three digits; nothing for None."""
    return "" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """0.1234 -> '12.3 %'; nothing for None."""
    return "" if value is None else f"{100 * value:.3g} %"
