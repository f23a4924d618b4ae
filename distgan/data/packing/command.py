"""`pack`, from the command line to the directory that appears in one step when everything in it is whole."""

import argparse
import hashlib
import json
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import PIL

from distgan.data.packing import journal, report
from distgan.data.packing.items import Found
from distgan.data.packing.labels import read_label_map
from distgan.data.packing.options import DESCRIPTION, PackOptions, add_arguments, check, recipe_of
from distgan.data.packing.selection import left_out_parts, select
from distgan.data.packing.shards import write_part
from distgan.data.packing.sources import find, open_source
from distgan.data.shards.manifest import open_manifest
from distgan.errors import InputError
from distgan.files import locked, sync_directory
from distgan.process import EXIT_DONE, EXIT_STOPPED, StopRequest

_SCRATCH = ".source"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """The command's line among others'."""
    parser = subparsers.add_parser(
        "pack",
        help="images from a folder, an archive or a data set's files -> WebDataset shards",
        description=DESCRIPTION,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        InputError: the options contradict each other, the source cannot be packed, or DST cannot be written.
    """
    fields = PackOptions.__dataclass_fields__
    options = PackOptions(**{name: value for name, value in vars(namespace).items() if name in fields})
    check(options)
    destination = Path(os.path.abspath(os.path.expanduser(options.dst)))
    try:
        text = pack(options, destination)
    except KeyboardInterrupt:
        print("distgan.data: stopped; the same command goes on after the last whole shard.", file=sys.stderr)
        return EXIT_STOPPED
    except OSError as error:
        raise InputError(f"DST is {str(options.dst)!r}, which cannot be written ({error.strerror or error}); give another path.") from None
    print(text)
    return EXIT_DONE


def pack(options: PackOptions, destination: Path) -> str:
    """Pack SRC into `destination`; returns what there is to say about it.

    Raises:
        InputError: as `run`.
    """
    new_labels = None if options.labels is None else read_label_map(options.labels)
    found = find(options.src, options.source)
    if Path(found.path).is_dir() and destination.is_relative_to(os.path.abspath(found.path)):
        raise InputError(f"DST is {str(options.dst)!r}, which lies in SRC; give a place outside of it.")
    command = _command_hash(found, options, new_labels)
    destination.parent.mkdir(parents=True, exist_ok=True)
    lock = destination.with_name(f".{destination.name}.packing.lock")
    with ExitStack() as stack:
        if (done := _done(destination, command, options)) is not None:  # needs no lock
            return done
        try:
            stack.enter_context(locked(lock, timeout_seconds=0))
        except TimeoutError:
            raise InputError(
                f"DST is {str(options.dst)!r}, which another process packs right now; wait for it, or give another DST."
            ) from None
        staging = destination.with_name(f".{destination.name}.packing")
        try:
            # Again: the process that held the lock until now may have made it.
            text = _done(destination, command, options) or _pack(found, options, new_labels, command, staging, destination)
        except InputError:
            if not journal.has_shards(staging):
                shutil.rmtree(staging, ignore_errors=True)
                lock.unlink()
            raise
        lock.unlink()
    return text


def _pack(found: Found, options: PackOptions, new_labels: dict[str, int] | None, command: str, staging: Path, destination: Path) -> str:
    ready = report.read_report(staging)
    if ready is None or ready.get("command") != command:
        ready = _fill(found, options, new_labels, command, staging)
    shutil.rmtree(staging / _SCRATCH, ignore_errors=True)
    journal.remove(staging)
    os.rename(staging, destination)  # over an empty directory, too
    sync_directory(destination.parent)
    return report.summary(ready, destination)


def _fill(found: Found, options: PackOptions, new_labels: dict[str, int] | None, command: str, staging: Path) -> dict[str, Any]:
    """Make of `staging` what DST is to be, from where an earlier process of this command left it; returns its report."""
    # Another Pillow may encode the same pixels to other bytes.
    done = journal.resume(staging, {"command": command, "pillow": PIL.__version__})
    source = open_source(found, staging / _SCRATCH, options.cifar_labels)
    recipe = recipe_of(options, source)
    left_out = left_out_parts(source, options)
    parts, source = select(source, options, new_labels)
    if options.on_error == "fail" and source.left_out:
        first = source.left_out[0]
        raise InputError(f"SRC has {first.name!r}, which {first.reason}; mend it, or add --on-error skip.")
    lines = []
    with StopRequest().listening() as stop:
        for part in parts:
            done_of_part = [line for line in done if line.part == part.name]
            lines += write_part(part, done_of_part, staging, staging / _SCRATCH, recipe, options, stop)
    for part in parts:
        open_manifest([staging / line.part / line.name for line in lines if line.part == part.name])
    content = report.build_report(command, found, source, options, lines, left_out)
    report.write_report(content, staging)
    return content


def _done(destination: Path, command: str, options: PackOptions) -> str | None:
    """What there is to say if DST is the result of this command already; None if nothing is there yet.

    Raises:
        InputError: something else is there.
    """
    if not os.path.lexists(destination):
        return None
    if os.path.ismount(destination):
        raise InputError(f"DST is {str(options.dst)!r}, a mount point, which nothing can be renamed to; give a new directory in it.")
    if destination.is_dir() and not any(destination.iterdir()):
        return None
    content = report.read_report(destination) if destination.is_dir() else None
    if content is None or content.get("command") != command:
        made = "" if content is None else ", made by another command or from another state of SRC"
        raise InputError(f"DST is {str(options.dst)!r}, which exists already{made}; give a new directory, or remove it first.")
    if not report.is_whole(content, destination):
        raise InputError(
            f"DST is {str(options.dst)!r}, which this command made, but shards of it are missing or cut; remove it and pack again."
        )
    return f"This command has packed it already; nothing was done.\n{report.summary(content, destination)}"


def _command_hash(found: Found, options: PackOptions, new_labels: dict[str, int] | None) -> str:
    """Names a command together with its source: what decides the bytes, and the names, sizes and times of the source's files."""
    what = [report.VERSION, found.kind, options.deciding(), new_labels]
    files = hashlib.sha256()
    for file in found.files:
        files.update(json.dumps([file.name, file.bytes, file.mtime_ns]).encode())
    return hashlib.sha256(json.dumps([what, files.hexdigest()]).encode()).hexdigest()
