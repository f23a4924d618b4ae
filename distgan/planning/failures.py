"""What failures cost: checkpoints at an interval, and work that is done again.

Failures are independent and as likely at any time (exponential), so of a run on several nodes they come as many times as often. Daly 2006,
"A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer Systems 22, gives the expected
time; failures may also strike a checkpoint or a restart.
"""

import math


def mean_time_between_failures(of_node_seconds: float, num_nodes: int) -> float:
    """Of a run that any of its nodes ends, in seconds."""
    return of_node_seconds / num_nodes


def goodput(interval_seconds: float, checkpoint_seconds: float, restart_seconds: float, mtbf_seconds: float) -> float:
    """The share of the time that moves the run ahead, with a checkpoint after each `interval_seconds` of work. Daly 2006, equation 20."""
    exponent = (interval_seconds + checkpoint_seconds) / mtbf_seconds
    if exponent > 700:  # beyond what e^x is a number for: such an interval never ends
        return 0.0
    return interval_seconds / (mtbf_seconds * math.exp(restart_seconds / mtbf_seconds) * math.expm1(exponent))


def lost_seconds_per_failure(interval_seconds: float, checkpoint_seconds: float, restart_seconds: float) -> float:
    """On average, to first order: half of what lies between two checkpoints is done again, after a restart."""
    return (interval_seconds + checkpoint_seconds) / 2 + restart_seconds


def young_interval(checkpoint_seconds: float, mtbf_seconds: float) -> float:
    """The best interval to first order, in seconds. Young 1974, "A first order approximation to the optimum checkpoint interval"."""
    return math.sqrt(2 * checkpoint_seconds * mtbf_seconds)


def daly_interval(checkpoint_seconds: float, mtbf_seconds: float) -> float:
    """The best interval to a higher order, in seconds of work between two checkpoints. Daly 2006, equation 37."""
    if checkpoint_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    root = math.sqrt(checkpoint_seconds / (2 * mtbf_seconds))
    return young_interval(checkpoint_seconds, mtbf_seconds) * (1 + root / 3 + root**2 / 9) - checkpoint_seconds
