"""What a run does about samples that cannot be read: end with their names, or go on without them, counted and within a budget."""

from collections.abc import Iterable
from dataclasses import dataclass

from distgan.data.shards.index import ShardRecord
from distgan.errors import InputError, RunError

JUDGED_FROM = 1000  # samples of a stream: one in the first ten says nothing of its share
SHOWN = 5  # damages that a message names


class DamagedSampleError(RunError):
    """A sample is not what the manifest says it is."""


@dataclass(frozen=True)
class Skip:
    """A damaged sample that was replaced by another one.

    Attributes:
        key: of the sample; empty where nobody can tell.
        reason: a sentence; that a shard cannot be read is the same for all of its samples.
        place: in the shard; None: of a stream, and of what was found at indexing.
    """

    shard: str
    key: str
    reason: str
    place: int | None = None


@dataclass(frozen=True)
class DamagePolicy:
    """`data.on_error` and its budget.

    Attributes:
        skip: go on without what is damaged.
        max_skipped_share: the largest share of all samples that may be left out.
    """

    skip: bool = False
    max_skipped_share: float = 0.0

    def allows(self, num_lost: int, num_all: int) -> bool:
        """Whether so many lost samples are within the budget."""
        return num_lost <= self.max_skipped_share * num_all

    def check(self, shards: Iterable[tuple[str, ShardRecord]]) -> None:
        """Hold what was found damaged at indexing against the policy.

        Raises:
            InputError: naming the first of it.
        """
        shards = list(shards)
        damaged = [(location, damage) for location, record in shards for damage in record.damages]
        if not damaged:
            return
        num_lost = sum(record.num_damaged for _, record in shards)
        num_all = num_lost + sum(record.num_samples for _, record in shards)
        if self.skip and num_lost < num_all and self.allows(num_lost, num_all):
            return
        problems = [f"{location} {damage.text}." for location, damage in damaged[:SHOWN]]
        if len(damaged) > SHOWN:
            problems.append(f"So is something in {len(damaged) - SHOWN} more places; python -m distgan.data index lists all of them.")
        if self.skip:
            problems.append(
                f"data.on_error is 'skip', but {num_lost} of {num_all} samples are damaged, more than data.max_skipped_share "
                f"{self.max_skipped_share:g} allows; mend the shards, or raise that."
            )
        elif num_lost < num_all:
            problems.append("To train without what is damaged, set data.on_error to skip.")
        raise InputError(problems)

    def check_skipped(self, num_skipped: int, num_damaged: int, num_samples: int, last: Skip) -> None:
        """Hold what was skipped while reading against the budget; what was found at indexing counts, too.

        Raises:
            DamagedSampleError: it is spent.
        """
        num_lost, num_all = num_skipped + num_damaged, num_samples + num_damaged
        if not self.allows(num_lost, num_all):
            raise DamagedSampleError(
                f"{num_lost} of {num_all} samples are damaged, {num_skipped} of them since they were indexed, which is more than "
                f"data.max_skipped_share {self.max_skipped_share:g} allows. The last one: {last.reason}"
            )

    def check_streamed(self, num_skipped: int, num_read: int, last: Skip) -> None:
        """Hold what a rank has skipped of a stream, `num_read` good samples aside, against the budget.

        Raises:
            DamagedSampleError: it is spent.
        """
        num_all = num_skipped + num_read
        early = f" of the first {JUDGED_FROM}" if num_all < JUDGED_FROM else ""
        if not self.allows(num_skipped, max(num_all, JUDGED_FROM)):
            raise DamagedSampleError(
                f"{num_skipped} of the {num_all} samples that this rank has read so far are damaged, which is more than "
                f"data.max_skipped_share {self.max_skipped_share:g} allows{early}. The last one: {last.reason}"
            )


FAIL = DamagePolicy()
