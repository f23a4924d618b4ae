"""What the ranks have skipped: every sample counts once, and what is said of it is said once."""

import pytest
import torch

from distgan.data.reading.skips import SkipLedger
from distgan.data.shards.damage import DamagedSampleError, DamagePolicy, Skip
from distgan.distributed import World

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


def ledger(max_skipped_share: float, num_damaged: int = 0) -> SkipLedger:
    return SkipLedger(ALONE, DamagePolicy(True, max_skipped_share), num_damaged, num_samples=100 - num_damaged)


def of_a_shard_that_is_gone(places: range) -> list[Skip]:
    return [Skip("a.tar", "", "a.tar cannot be read.", place) for place in places]


def test_the_samples_of_a_shard_that_is_gone_count_one_by_one() -> None:
    """They have no keys, and one reason."""
    skips = ledger(0.1)
    assert skips.exchange(of_a_shard_that_is_gone(range(5))) == of_a_shard_that_is_gone(range(1))
    assert skips.exchange(of_a_shard_that_is_gone(range(10))) == []
    with pytest.raises(DamagedSampleError, match=r"11 of 100 samples are damaged.* a\.tar cannot be read"):
        skips.exchange(of_a_shard_that_is_gone(range(10, 11)))


def test_a_sample_counts_once_whatever_is_said_of_it() -> None:
    skips = ledger(0.02, num_damaged=1)
    one = Skip("a.tar", "7", "7 was damaged.", 7)
    assert skips.exchange([one, *of_a_shard_that_is_gone(range(7, 8))]) == [one, *of_a_shard_that_is_gone(range(7, 8))]
    assert skips.exchange([one]) == []
    with pytest.raises(DamagedSampleError, match="3 of 100 samples are damaged, 2 of them since"):
        skips.exchange([Skip("b.tar", "7", "b.tar: 7 was damaged.", 7)])


def test_ranks_hold_streams_against_the_budget_themselves() -> None:
    skips = SkipLedger(ALONE, DamagePolicy(True, 0.0), 0, num_samples=None)
    told = [Skip("pipe:cat a.tar", "x", "x is no image."), Skip("pipe:cat a.tar", "y", "y is no image.")]
    assert skips.exchange(told) == told
    assert skips.exchange(told) == []
