"""Work on many shards in processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from joblib import Parallel, delayed

Result = TypeVar("Result")

_PARALLEL_BYTES = 1 << 26  # reading less than this is done before processes for it have started


def in_processes(
    function: Callable[..., Result], tasks: Sequence[tuple], num_bytes: int, num_processes: int | None = None
) -> Iterator[Result]:
    """What `function` returns for the arguments of each task, in the order of the tasks, as it comes.

    Args:
        num_bytes: that all tasks together read; few are read in this process.
        num_processes: None: as many as there are CPUs.
    """
    if num_processes is None:
        num_processes = 1 if num_bytes < _PARALLEL_BYTES else -1
    pool = Parallel(n_jobs=num_processes, return_as="generator")
    return pool(delayed(function)(*task) for task in tasks)  # pyright: ignore[reportReturnType]
