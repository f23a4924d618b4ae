"""Whoever meets waits for the slowest."""

import functools
import statistics

import numpy as np

_STEP = 0.005  # of the integral below, in standard deviations


@functools.cache
def expected_largest(count: int) -> float:
    """Of so many independent standard normal numbers; it grows as sqrt(2 ln count) does.

    With F^n the distribution of the largest, the integral of 1 - F^n above zero less that of F^n below (David & Nagaraja 2003, "Order
    statistics", section 3.1).
    """
    if count == 1:
        return 0.0
    middles = np.arange(-9 + _STEP / 2, 9, _STEP)
    normal = statistics.NormalDist()
    all_below = np.array([normal.cdf(float(x)) for x in middles]) ** count
    return float(np.where(middles > 0, 1 - all_below, -all_below).sum() * _STEP)


def straggling_seconds(jitter_seconds: float, num_meetings: float, num_ranks: int) -> float:
    """What an iteration takes longer where ranks meet `num_meetings` times in it, and alone its time varies by `jitter_seconds`.

    If parts between meetings, and ranks, vary independently, a part's standard deviation is that of the iteration over the root of their
    number, and each meeting waits for the slowest of all ranks.
    """
    return num_meetings**0.5 * jitter_seconds * expected_largest(num_ranks)
