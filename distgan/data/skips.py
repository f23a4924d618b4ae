"""What the ranks have skipped, told once and held against one budget."""

from distgan.data.damage import DamagePolicy, Skip
from distgan.distributed import World


class SkipLedger:
    """The skipped samples of all ranks.

    Args:
        num_damaged, num_samples: of the manifest. None: there is none, and every rank holds its own stream against the budget.
    """

    def __init__(self, world: World, policy: DamagePolicy, num_damaged: int, num_samples: int | None) -> None:
        self._world, self._policy = world, policy
        self._num_damaged, self._num_samples = num_damaged, num_samples
        self._known: dict[tuple[str, str], Skip] = {}

    def exchange(self, own: list[Skip]) -> list[Skip]:
        """Add what this rank has skipped and learn what the others have; each sample that is new is returned, once. Collective.

        Raises:
            DamagedSampleError: all ranks together have spent the budget.
        """
        gathered = self._world.gather([[skip.shard, skip.key, skip.reason] for skip in own])
        of_all = {(shard, key): Skip(shard, key, reason) for of_rank in gathered for shard, key, reason in of_rank}
        new = [skip for name, skip in of_all.items() if name not in self._known]
        self._known |= of_all
        if new and self._num_samples is not None:
            self._policy.check_skipped(len(self._known), self._num_damaged, self._num_samples, new[-1])
        return new
