"""What the person sees who watches a run: a progress bar, or lines where the terminal has no room for one. Only on rank 0."""

import math
import os
import sys
from typing import TextIO

from tqdm import tqdm

from distgan.metrics.interval import Interval
from distgan.state import TrainState


class Progress:
    """On standard error.

    Args:
        total_images: where the progress bar ends.
        shows: False on the other ranks, where nothing is to be seen.
    """

    def __init__(self, state: TrainState, total_images: float, *, shows: bool) -> None:
        self._state, self._total_images, self._shows = state, total_images, shows
        self._bar = None
        if shows and _is_wide_terminal(sys.stderr):
            iterations = math.ceil(total_images / state.images_per_iteration)
            self._bar = tqdm(
                total=iterations * state.images_per_iteration, initial=state.num_images, unit="img", unit_scale=True, dynamic_ncols=True
            )

    def iteration(self) -> None:
        """An iteration ended."""
        if self._bar is not None:
            self._bar.update(self._state.images_per_iteration)

    def interval(self, interval: Interval) -> None:
        """A log interval ended."""
        discriminator, generator = (interval.means.get(f"{name}_loss", float("nan")) for name in ("discriminator", "generator"))
        shown = f"data wait {interval.data_wait_share:.1%}, loss D {discriminator:.3f}, loss G {generator:.3f}"
        if self._bar is not None:
            self._bar.set_postfix_str(shown)  # it shows the images/s itself
        else:
            kimg = f"{self._state.num_images / 1000:g}/{self._total_images / 1000:g} kimg"
            self.say(f"{kimg}, img/s {interval.images_per_second:.0f}, {shown}")

    def say(self, text: str) -> None:
        """Print a line, past the progress bar."""
        if self._shows:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _is_wide_terminal(stream: TextIO) -> bool:
    """Whether a progress bar would show: some terminals (of containers, say) are zero columns wide."""
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0
