"""Amounts as Kubernetes writes them: '500m', '64Gi'."""

import re
from fractions import Fraction

_FACTORS = {"": 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)
}


def parse(text: str) -> Fraction | None:
    """'64Gi' -> 68719476736; None: it is no amount above 0."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", text)
    if match is None or match[2] not in _FACTORS:
        return None
    return Fraction(match[1]) * _FACTORS[match[2]] or None
