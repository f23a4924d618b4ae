"""`verify`: read every shard again and compare it, byte for byte, with what it was when it was indexed. Nothing is written."""

import argparse
import hashlib
import shlex
import sys
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from distgan.data.decoding import Decoder, UnreadableImageError, decode_whole
from distgan.data.inspection.findings import EXIT_DAMAGED, Finding, counted
from distgan.data.parallel import in_processes
from distgan.data.shards import urls
from distgan.data.shards.grouping import SAMPLE
from distgan.data.shards.index import Shard
from distgan.data.shards.local_shards import recorded
from distgan.data.shards.records import is_consistent
from distgan.errors import InputError
from distgan.process import EXIT_DONE

BYTES_DIFFER = "bytes differ"
NOT_DECODED = "cannot be decoded"
BESIDE_IMAGES = "SHA-256 differs, though the bytes of every image are whole: a header, a label, padding or another member was damaged"
UNKNOWN_PLACE = "SHA-256 differs; which samples are damaged cannot be told, as the index is damaged, too"
_CHUNK_BYTES = 1 << 20


def run(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code. The damages go to stdout, a line each; everything else to stderr.

    Raises:
        InputError: bad usage, or shards that were never indexed, where no damage is to be told of.
    """
    if options.jobs is not None and options.jobs < 1:
        raise InputError(f"--jobs is {options.jobs}; give the number of processes, 1 or more.")
    shards, unindexed = _find(options.url)
    if not shards:
        raise InputError(_never_indexed(unindexed, options.url))
    findings, shards = _without_unreliable(shards)
    num_bytes = sum(shard.record.bytes for shard in shards)
    checked = in_processes(check_shard, [(shard, options.decode) for shard in shards], num_bytes, options.jobs)
    # disable=None: no bar where nobody watches
    with tqdm(total=num_bytes, desc="verifying", unit="B", unit_scale=True, disable=None) as bar:
        for finding in findings:
            bar.write(finding.line)
        for shard, new in zip(shards, checked, strict=True):
            for finding in new:
                bar.write(finding.line)  # past the bar, which print would tear
            findings += new
            bar.update(shard.record.bytes)
    sys.stdout.flush()
    _report(shards, findings)
    if unindexed:
        if not findings:
            raise InputError(_never_indexed(unindexed, options.url))
        print(_never_indexed(unindexed, options.url), file=sys.stderr)
    return EXIT_DAMAGED if findings else EXIT_DONE


def check_shard(shard: Shard, with_decoding: bool) -> list[Finding]:
    """Everything that is no longer as it was when the shard was indexed, index file first.

    Args:
        with_decoding: also decode every image whose bytes are whole.
    """
    index_problem = _index_problem(shard)
    file_problem = _problem_of(shard.path, shard.record.bytes)
    problems = [(shard.index_file, index_problem), (shard.path, file_problem)]
    findings = [Finding(path, None, problem) for path, problem in problems if problem]
    if file_problem:
        return findings
    rows = np.empty(0, SAMPLE) if index_problem else shard.load_index()
    try:
        sha256, broken = _read_through(shard.path, rows, with_decoding)
    except OSError as error:
        return [*findings, Finding(shard.path, None, f"cannot be read ({error.strerror})")]
    keys = shard.load_keys() if broken else []
    findings += [Finding(shard.path, keys[place], reason) for place, reason in broken.items()]
    if sha256 != shard.record.sha256 and BYTES_DIFFER not in broken.values():
        findings.append(Finding(shard.path, None, UNKNOWN_PLACE if index_problem else BESIDE_IMAGES))
    return findings


def _read_through(path: Path, rows: np.ndarray, with_decoding: bool) -> tuple[str, dict[int, str]]:
    """Read a shard once -> its SHA-256, and by their places the samples that are damaged. At most one image is in memory."""
    digest = hashlib.sha256()
    broken: dict[int, str] = {}
    position = 0
    with open(path, "rb", buffering=_CHUNK_BYTES) as file:
        for place, row in enumerate(rows):
            offset, num_bytes, crc32, _, width, height, channels, decoder = row.item()
            assert offset >= position, "samples stand in the order of the tar"
            _hash_ahead(file, offset - position, digest)
            payload = file.read(num_bytes)
            digest.update(payload)
            position = offset + num_bytes
            if zlib.crc32(payload) != crc32:
                broken[place] = BYTES_DIFFER
            elif with_decoding:
                try:
                    decode_whole(payload, Decoder(decoder), width, height, channels)
                except UnreadableImageError as error:
                    broken[place] = f"{NOT_DECODED} ({error})"
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest(), broken


def _hash_ahead(file: BinaryIO, num_bytes: int, digest: "hashlib._Hash") -> None:
    while num_bytes > 0 and (chunk := file.read(min(num_bytes, _CHUNK_BYTES))):
        digest.update(chunk)
        num_bytes -= len(chunk)


def _find(url: str) -> tuple[list[Shard], list[Path]]:
    """The shards of `url` as they were indexed, also those that have gone since; and those that never were indexed."""
    paths = dict.fromkeys(urls.named_locally(url))
    known = {shard.path: shard for directory in dict.fromkeys(path.parent for path in paths) for shard in recorded(directory)}
    gone = urls.would_name(url, [path for path in known if not path.is_file()])
    unindexed = [path for path in paths if path not in known]
    if not all(path.is_file() for path in unindexed):
        urls.resolve(url)  # says what is not there
    return [known[path] for path in dict.fromkeys([*paths, *gone]) if path in known], unindexed


def _without_unreliable(shards: list[Shard]) -> tuple[list[Finding], list[Shard]]:
    """The manifests that are damaged themselves, and the shards of the others: no shard is to be accused by a damaged record."""
    directories = dict.fromkeys(shard.index_directory for shard in shards)
    bad = [directory for directory in directories if not is_consistent(directory)]
    reason = "does not agree with the hash in manifest.json: no shard of it can be verified; remove both and index the shards anew"
    return [Finding(path / "shards.jsonl", None, reason) for path in bad], [shard for shard in shards if shard.index_directory not in bad]


def _index_problem(shard: Shard) -> str | None:
    problem = _problem_of(shard.index_file, shard.record.index_bytes)
    if problem:
        return problem
    try:
        return None if shard.is_index_whole() else "CRC-32 differs"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _problem_of(path: Path, num_bytes: int) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != num_bytes:
        return f"has {path.stat().st_size} bytes, but had {num_bytes} when it was indexed"
    return None


def _never_indexed(paths: list[Path], url: str) -> str:
    subject = f"{paths[0]} was" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1:,} more of the shards were"
    return f"{subject} never indexed, so there is nothing to compare with; run python -m distgan.data index {shlex.quote(url)} first."


def _report(shards: list[Shard], findings: list[Finding]) -> None:
    num_left_out = sum(shard.record.num_damaged for shard in shards)
    what = f"{counted(sum(shard.record.num_samples for shard in shards), 'sample')} in {counted(len(shards), 'shard')}"
    size = tqdm.format_sizeof(sum(shard.record.bytes for shard in shards), "B")
    if findings:
        num_samples = sum(finding.key is not None for finding in findings)
        in_files = counted(len({finding.path for finding in findings}), "file")
        verdict = f"{counted(len(findings), 'damage')} in {in_files}, {counted(num_samples, 'sample')} among them"
    else:
        verdict = "all is as it was when it was indexed"
    print(f"{what} ({size}): {verdict}.", file=sys.stderr)
    if num_left_out:
        least = "At least " if any(damage.is_open for shard in shards for damage in shard.record.damages) else ""
        left_out = f"{least}{counted(num_left_out, 'more sample')} {'was' if num_left_out == 1 else 'were'}"
        print(f"{left_out} damaged before that, and left out; python -m distgan.data index lists them.", file=sys.stderr)
