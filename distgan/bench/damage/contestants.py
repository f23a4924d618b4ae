"""Those who read the damaged shards, each in a process of its own:

python -m distgan.bench.damage.contestants CONTESTANT CASE OUT

writes to OUT what it reads while it does, a line of JSON for each batch and a last one for how it ended (`reading`).
"""

import hashlib
import json
import os
import re
import resource
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from distgan.batch import BatchLayout
from distgan.bench.damage.cases import NUM_SAMPLES, SIDE, Case
from distgan.data.plan import SamplePlan
from distgan.data.reading.reader import Reader
from distgan.data.remote.cache import CacheSettings
from distgan.data.shards.damage import DamagePolicy, Skip
from distgan.data.shards.manifest import open_manifest
from distgan.data.shards.urls import resolve
from distgan.errors import InputError

Batch = tuple[list[tuple[np.ndarray, int]], int]  # images [side, side, 3] uint8 and labels of one epoch; how many the whole batch holds
Line = dict[str, Any]
MEMORY_LIMIT_BYTES = 2**32  # of data, torch's own included


def digest(image: np.ndarray) -> str:
    """A name for an image of the expected size, which any other one has not."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16] if image.shape == (SIDE, SIDE, 3) else f"of shape {image.shape}"


def reading(contestant: str, case: Case, write: Callable[[Line], None]) -> None:
    """Read a case. Written are {"batch": [[digest, label], ...], "size": ...} of the last epoch, {"warning": ...} for what is said on the
    way, and at the end {"error": ... or None, "counted": how many samples distgan says are lost, or None}."""
    skips: dict[tuple[str, str], Skip] = {}
    counted: list[int] = []
    error = None
    try:
        batches = _BATCHES[contestant](case, skips, counted)
        for samples, size in batches:
            write({"batch": [[digest(image), label] for image, label in samples], "size": size})
    except Exception as exception:
        error = _in_words(exception)
    for skip in skips.values():
        write({"warning": skip.reason})
    write({"error": error, "counted": counted[0] + len(skips) if counted and error is None else None})


def _with_webdataset(case: Case, warn: bool) -> Iterator[Batch]:
    """The library as its documentation reads a data set."""
    # They import much, which distgan's process does not need.
    from torch.utils.data import DataLoader
    from webdataset.compat import WebDataset
    from webdataset.handlers import reraise_exception, warn_and_continue

    handler = warn_and_continue if warn else reraise_exception
    _replace(case, "indexing")
    dataset = WebDataset(list(case.urls), shardshuffle=False, cache_dir=case.cache, handler=handler)
    decoded = dataset.decode("pil", handler=handler).to_tuple(case.extension, "cls", handler=handler)
    batched: Any = decoded.batched(case.batch_size, collation_fn=None)
    loader = DataLoader(batched, batch_size=None, num_workers=case.workers) if case.workers else batched
    for epoch in range(case.epochs):
        for batch in loader:
            if epoch == case.epochs - 1:
                yield [(np.asarray(image), label) for image, label in batch], len(batch)
        _replace(case, "epoch")


def _with_distgan(case: Case, skip: bool, skips: dict[tuple[str, str], Skip], counted: list[int]) -> Iterator[Batch]:
    """This project as a conditional run reads that is told the number of classes; ranks one after the other."""
    policy = DamagePolicy(skip, max_skipped_share=0.99)
    cache = CacheSettings(Path(case.cache, "distgan"), 10**9) if case.cache else None
    manifest = open_manifest(resolve(case.url), policy, cache)
    manifest.check_labels(policy=policy)
    manifest.check_classes(NUM_SAMPLES, policy)
    known = [(damage.shard, damage.key or damage.reason) for damage in manifest.skips]
    skips |= dict(zip(known, manifest.skips, strict=True))
    counted.append(manifest.num_damaged - len(skips))
    _replace(case, "indexing")
    sizes = np.array([shard.record.num_samples for shard in manifest.shards])
    plan = SamplePlan(sizes, manifest.hash, seed=0, shuffle_window=1)
    for rank in range(case.world_size):
        layout = BatchLayout(case.batch_size, 1, case.world_size, rank)
        last_epoch = range((case.epochs - 1) * plan.num_samples, case.epochs * plan.num_samples)
        arguments = (manifest, plan, layout, SIDE, 3, case.workers)
        with closing(Reader(*arguments, policy=policy, cache=cache, num_classes=NUM_SAMPLES)) as reader:
            for _ in range(-(-last_epoch.stop // case.batch_size)):
                part = next(reader)
                skips |= {(one.shard, one.key): one for one in reader.take_skips()}
                images = part.images.permute(0, 2, 3, 1).numpy()
                rows = [row for row, number in enumerate(part.numbers.tolist()) if number in last_epoch]
                if rows:
                    yield [(images[row], int(part.labels[row])) for row in rows], len(images)
                if part.numbers[-1] + 1 == last_epoch.start:
                    _replace(case, "epoch")


_BATCHES: dict[str, Callable[[Case, dict[tuple[str, str], Skip], list[int]], Iterator[Batch]]] = {
    "webdataset": lambda case, skips, counted: _with_webdataset(case, warn=False),
    "webdataset, warn": lambda case, skips, counted: _with_webdataset(case, warn=True),
    "distgan, fail": lambda case, skips, counted: _with_distgan(case, False, skips, counted),
    "distgan, skip": lambda case, skips, counted: _with_distgan(case, True, skips, counted),
}
CONTESTANTS = tuple(_BATCHES)


def _replace(case: Case, after: str) -> None:
    for target, source in case.replace.items() if case.replace_after == after else ():
        shutil.copyfile(source, target)


def _in_words(error: BaseException) -> str:
    sentences = " ".join(error.problems) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    of_worker = re.search(r"Original Traceback .*^(\w+: .*)", sentences, flags=re.DOTALL | re.MULTILINE)
    sentences = of_worker.group(1) if of_worker else sentences
    cause = f" (from {_in_words(error.__cause__)})" if error.__cause__ is not None else ""
    return sentences + cause


def _status_bytes(name: str) -> int:
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), flags=re.MULTILINE)
    return 1024 * int(kilobytes)


def main(contestant: str, case_file: str, out_file: str) -> None:
    """Run one contestant within its limits."""
    if contestant.startswith("webdataset"):
        import webdataset  # noqa: F401 - before memory is looked at
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    out = os.open(out_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)  # workers write to it, too

    def write(line: Line) -> None:
        os.write(out, (json.dumps(line) + "\n").encode())

    warnings.showwarning = lambda message, category, *_: write({"warning": f"{category.__name__}: {message}"})
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status_bytes("VmRSS")
    reading(contestant, Case(**json.loads(Path(case_file).read_text())), write)
    write({"peak_bytes": _status_bytes("VmHWM") - before})


if __name__ == "__main__":
    main(*sys.argv[1:])
