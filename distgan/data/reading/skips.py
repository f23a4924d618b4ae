"""What the ranks have skipped, told once and held against one budget."""

from distgan.data.shards.damage import DamagePolicy, Skip
from distgan.distributed import World


class SkipLedger:
    """The skipped samples of all ranks.

    Args:
        num_damaged, num_samples: of the manifest. None: there is none, and every rank holds its own stream against the budget.
    """

    def __init__(self, world: World, policy: DamagePolicy, num_damaged: int, num_samples: int | None) -> None:
        self._world, self._policy = world, policy
        self._num_damaged, self._num_samples = num_damaged, num_samples
        self._known: set[tuple[str, str | int]] = set()
        self._told: set[str] = set()

    def exchange(self, own: list[Skip]) -> list[Skip]:
        """Add what this rank has skipped and learn what the others have; for each reason that is new, the first is returned. Collective.

        Raises:
            DamagedSampleError: all ranks together have spent the budget.
        """
        gathered = self._world.gather([[skip.shard, skip.key, skip.reason, skip.place] for skip in own])
        of_all = [Skip(*values) for of_rank in gathered for values in of_rank]
        self._known |= {(skip.shard, skip.key if skip.place is None else skip.place) for skip in of_all}
        new = {skip.reason: skip for skip in reversed(of_all) if skip.reason not in self._told}
        self._told |= new.keys()
        if of_all and self._num_samples is not None:
            self._policy.check_skipped(len(self._known), self._num_damaged, self._num_samples, of_all[-1])
        return list(reversed(new.values()))
