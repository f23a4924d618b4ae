"""What a rank measured from one log line to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

from distgan.metrics.traffic import Total


@dataclass(frozen=True)
class Interval:
    """Of this rank alone where it does not say otherwise; seconds as `Stopwatch` takes them."""

    num_images: int  # over all ranks
    num_ranks: int
    seconds: float  # of the iterations; what comes between them does not count
    data_wait_seconds: float
    phase_seconds: Mapping[str, float]
    exchanged: Mapping[str, Total]  # by phase, or by what else it was for
    flops: int
    peak_flops_per_second: float | None  # of the device; None: not known
    memory_bytes: Mapping[str, int]  # by kind, now
    means: Mapping[str, float]  # of the phases' and the steps' statistics, over all ranks
    num_skipped_steps: int  # for a gradient that was not finite; the same on all ranks

    @property
    def images_per_second(self) -> float:
        """Over all ranks."""
        return self.num_images / self.seconds

    @property
    def data_wait_share(self) -> float:
        return self.data_wait_seconds / self.seconds

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation, the share of the device's peak (Chowdhery et al. 2022, arXiv 2204.02311); None: not known."""
        return None if self.peak_flops_per_second is None else self.flops / self.seconds / self.peak_flops_per_second

    def record(self) -> dict[str, float]:
        """What log.jsonl says of it; operations of all ranks together, which compute alike."""
        utilisation = {} if self.mfu is None else {"mfu": self.mfu}
        collectives = {
            f"{phase}_collective_{unit}": value
            for phase, total in sorted(self.exchanged.items())
            for unit, value in (("bytes", total.sent_bytes), ("seconds", total.seconds))
        }
        return {
            "images_per_second": self.images_per_second,
            "data_wait_share": self.data_wait_share,
            "flops_per_second": self.num_ranks * self.flops / self.seconds,
            **utilisation,
            **{f"{phase}_seconds": seconds for phase, seconds in self.phase_seconds.items()},
            **self.means,
            **collectives,
            "memory_bytes": self.memory_bytes.get("device_peak", self.memory_bytes["resident"]),
        }
