"""Work on many shards in processes of their own.

Results are handed over in files. In the one pipe that joblib's processes share, one that is killed while it writes holds
the others' lock and leaves half a result, for the rest of which the parent waits for ever.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, delayed, effective_n_jobs

from distgan.errors import RunError

Result = TypeVar("Result")

_PARALLEL_BYTES = 1 << 26  # reading less than this is done before processes for it have started


def in_processes(
    function: Callable[..., Result], tasks: Sequence[tuple], num_bytes: int, num_processes: int | None = None
) -> Iterator[Result]:
    """What `function` returns for the arguments of each task, in the order of the tasks, as it comes.

    Args:
        num_bytes: that all tasks together read; few are read in this process.
        num_processes: None: as many as there are CPUs.

    Raises:
        RunError: one of the processes was killed.
    """
    if num_processes is None:
        num_processes = 1 if num_bytes < _PARALLEL_BYTES else effective_n_jobs(-1)
    if num_processes == 1:
        yield from (function(*task) for task in tasks)
        return
    with tempfile.TemporaryDirectory(prefix="distgan-", ignore_cleanup_errors=True) as directory:  # who is left may still write
        try:
            yield from handed_over(Parallel(num_processes, return_as="generator"), function, tasks, Path(directory))
        except BrokenProcessPool:
            raise RunError(
                f"One of {num_processes} processes that read shards was killed, most likely for want of memory; run it where there is more."
            ) from None


def handed_over(pool: Parallel, function: Callable[..., Result], tasks: Iterable[tuple], directory: Path) -> Iterator[Result]:
    """Give the tasks to `pool`, at once; returns what `function` returned for each, in their order, through files in `directory`."""
    names: Any = pool(delayed(_leave)(function, task, directory) for task in tasks)
    return map(_take, names)


def _leave(function: Callable, task: tuple, directory: Path) -> str:
    result = function(*task)
    descriptor, name = tempfile.mkstemp(dir=directory)
    with os.fdopen(descriptor, "wb") as file:
        pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)
    return name


def _take(name: str) -> Any:
    with open(name, "rb") as file:
        os.unlink(name)
        return pickle.load(file)  # noqa: S301 (written by this command's own processes, in a directory of its own)
