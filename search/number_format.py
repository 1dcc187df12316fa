"""Numbers as people read them in tables and figures."""

from __future__ import annotations

import numpy as np

NONE = "\N{EN DASH}"  # what is not there


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with significant digits, thousands separated; a dash for what is not there.

    Example:
        >>> number(3.14159), number(12345.6), number(float("nan")), number(5)
        ('3.14', '12,346', '–', '5.00')
    """
    if value is None or not np.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def count(value: int) -> str:
    """Return a whole number short enough for a heading.

    Example:
        >>> count(950), count(1_905_600), count(3 * 10**35)
        ('950', '1.91 M', '3.0 × 10³⁵')
    """
    if value < 10_000:
        return f"{value:,}"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if size <= value < 10**12:
            return f"{number(value / size)} {unit}"
    power = len(str(value)) - 1
    raised = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value / 10**power:.1f} \N{MULTIPLICATION SIGN} 10{raised}"


def percent(value: float, *, signed: bool = True) -> str:
    """Return a ratio minus one as percent; a dash for NaN."""
    if not np.isfinite(value):
        return NONE
    return f"{100 * value:+.1f} %".replace("-", "\N{MINUS SIGN}") if signed else f"{100 * value:.1f} %"


def spread_like(spread: float, value: float) -> str:
    """Return a spread with the decimals that its value has in three digits, and at least one digit of its own.

    Example:
        >>> spread_like(0.0312, 2.16), spread_like(0.00042, 2.16)
        ('0.03', '0.0004')
    """
    decimals = max(0, 2 - int(np.floor(np.log10(value))))
    own = decimals if spread == 0 else max(decimals, -int(np.floor(np.log10(spread))))
    return f"{spread:,.{own}f}"
