"""Numbers and lists in the words of reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from search.number_format import NONE


def listed(items: Iterable[str], *, most: int = 20) -> str:
    """Return a list in words.

    Example:
        >>> listed(["a", "b", "c"]), listed("abcd", most=2)
        ('a, b and c', 'a, b and 2 more')
    """
    words = list(items)
    if len(words) > most:
        words = [*words[:most], f"{len(words) - most} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def percents(*values: float) -> str:
    """Return regrets as percent, three significant digits.

    Example:
        >>> percents(0.0312, 0.0345)
        '3.12 against 3.45 %'
    """
    return " against ".join(percent_digits(value) for value in values) + " %"


def percent_digits(value: float) -> str:
    """Return 100 times a number with three significant digits, at most three decimals; a dash for NaN.

    Example:
        >>> percent_digits(0.0312), percent_digits(0.09999), percent_digits(-0.0001)
        ('3.12', '10.0', '-0.010')
    """
    if not np.isfinite(value):
        return NONE
    size = float(f"{abs(100 * value):.2e}")  # rounded first: 9.999 is 10.0
    decimals = 0 if size == 0 else int(np.clip(2 - np.floor(np.log10(size)), 0, 3))
    return f"{100 * value:.{decimals}f}"


def span(values: Sequence[float]) -> str:
    """Return the smallest and the largest of some numbers, rounded.

    Example:
        >>> span([147.0, 210.4]), span([5, 5])
        ('147 to 210', '5')
    """
    low, high = round(min(values)), round(max(values))
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def counted(n: int, noun: str) -> str:
    """Return a number and a noun.

    Example:
        >>> counted(1, "case"), counted(12, "case")
        ('1 case', '12 cases')
    """
    return f"{n} {noun}" + "s" * (n != 1)
