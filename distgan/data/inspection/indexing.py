"""`index`: bring the manifest of a set of shards up to date, and tell of everything in it that is damaged."""

import argparse
import sys

from tqdm import tqdm

from distgan.data.inspection.findings import EXIT_DAMAGED, Finding, counted, of_indexing
from distgan.data.remote.cache import CacheSettings
from distgan.data.shards import manifest, urls
from distgan.data.shards.damage import DamagePolicy
from distgan.data.shards.local_shards import forget_missing
from distgan.data.shards.manifest import Manifest
from distgan.data.shards.remote_shards import changed
from distgan.errors import InputError
from distgan.process import EXIT_DONE


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code. The damages go to stdout, a line each; everything else to stderr.

    Raises:
        InputError: bad usage, or no place for the index can be written.
    """
    policy = _policy(options)
    opened = manifest.index_shards(urls.resolve(options.url), CacheSettings.default())
    local = [shard for shard in (*opened.shards, *opened.unreadable) if not shard.is_remote]
    for directory, index_directory in dict.fromkeys((shard.path.parent, shard.index_directory) for shard in local):
        for path in forget_missing(directory, index_directory):
            print(f"{path} is no longer there, and no longer in the manifest.", file=sys.stderr)
    damaged, elsewhere = of_indexing(opened), _changed_elsewhere(opened)
    for finding in damaged + elsewhere:
        print(finding.line)
    sys.stdout.flush()  # before the summary, where both go to one place
    for line in _summary(opened):
        print(line, file=sys.stderr)
    verdict, code = _judged(opened, policy) if damaged else ("", EXIT_DONE)
    if elsewhere:
        verdict, code = "A run refuses what has changed; index the shards where they lie, and put that manifest beside them.", EXIT_DAMAGED
    if verdict:
        print(verdict, file=sys.stderr)
    return code


def sides(opened: Manifest) -> str:
    """The sizes of the images in a few words."""
    records = [shard.record for shard in opened.shards]
    smallest, largest = min(record.min_side for record in records), max(record.max_side for record in records)
    num_not_square = sum(record.num_not_square for record in records)
    if not num_not_square and smallest == largest:
        return f"{smallest}x{largest}"
    return f"sides of {smallest} to {largest} pixels, {counted(num_not_square, 'image')} not square"


def places(opened: Manifest) -> str:
    """Where the index lies."""
    return ", ".join(dict.fromkeys(str(shard.index_directory) for shard in opened.shards))


def labels(opened: Manifest) -> str:
    """What is known of the labels."""
    num_labelled = sum(shard.record.num_labelled for shard in opened.shards)
    if not num_labelled:
        return "none"
    rest = "every sample is labelled" if num_labelled == opened.num_samples else f"{opened.num_samples - num_labelled:,} without a label"
    return f"0 to {opened.num_classes - 1}, {rest}"


def _changed_elsewhere(opened: Manifest) -> list[Finding]:
    """Remote shards that are not those of the manifest beside them, as far as their sizes tell."""
    remote = [shard for shard in (*opened.shards, *opened.unreadable) if shard.is_remote]
    return [
        Finding(shard.location, None, f"has {num_bytes} bytes, but had {shard.record.bytes} when the manifest beside it was made")
        for shard, num_bytes in changed(remote)
    ]


def _policy(options: argparse.Namespace) -> DamagePolicy:
    share = options.max_skipped_share
    if not 0 <= share < 1:
        raise InputError(f"--max-skipped-share is {share:g}; give a share of all samples from 0 to below 1, such as 0.01.")
    return DamagePolicy(options.on_error == "skip", share)


def _summary(opened: Manifest) -> list[str]:
    if not opened.shards:
        return ["Nothing could be indexed."]
    num_bytes = tqdm.format_sizeof(sum(shard.record.bytes for shard in opened.shards), "B")
    return [
        f"samples  {opened.num_samples:,} in {counted(len(opened.shards), 'shard')} of {num_bytes}",
        f"labels   {labels(opened)}",
        f"images   {sides(opened)}, {'colour' if opened.channels == 3 else 'grey'}",
        f"hash     {opened.hash}",
        f"index    {places(opened)}",
    ]


def _judged(opened: Manifest, policy: DamagePolicy) -> tuple[str, int]:
    """What a run would do about the damages, and the exit code that follows."""
    if not opened.shards:
        return "No sample can be read, which no run skips; mend the shards.", EXIT_DAMAGED
    num_lost, num_all, share = opened.num_damaged, opened.num_damaged + opened.num_samples, f"{policy.max_skipped_share:g}"
    lost = f"{num_lost:,} of {counted(num_all, 'sample')} ({100 * num_lost / num_all:.2g} %) {'is' if num_lost == 1 else 'are'} damaged"
    if not policy.skip:
        return f"{lost}: a run refuses that; mend the shards, or set data.on_error to skip.", EXIT_DAMAGED
    if not policy.allows(num_lost, num_all):
        return f"{lost}, more than data.max_skipped_share {share} allows; mend the shards, or raise that.", EXIT_DAMAGED
    return f"{lost}: a run skips that, as data.max_skipped_share {share} allows.", EXIT_DONE
