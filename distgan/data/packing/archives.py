"""The table of contents of a zip or tar: where each member lies, for workers to read it there."""

import posixpath
import stat
import struct
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from distgan.data.packing.items import FileRange, LeftOut, ZipMember
from distgan.data.shards import tar
from distgan.errors import InputError

_READ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass
class Contents:
    """Regular members by their path; of those with one path the last counts, as when the archive is unpacked."""

    places: dict[str, FileRange | ZipMember] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    num_links: int = 0  # and devices

    def add(self, archive: str, name: str, place: FileRange | ZipMember) -> None:
        name = path_inside(archive, name)
        if name in self.places:
            self.left_out.append(LeftOut(name, "is in the archive again further on"))
        self.places[name] = place


def path_inside(archive: str, name: str) -> str:
    """The shortest form of a member's path; raises InputError if it leads out of the archive."""
    if name.startswith("/") or ".." in name.split("/"):
        raise InputError(f"SRC is {archive!r}, which holds {name!r}: a path that leads out of it; write it again without such names.")
    return posixpath.normpath(name)


def scan_zip(path: Path) -> Contents:
    """The members of a zip; raises InputError if its directory is damaged or a name leads out of it."""
    contents = Contents()
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, OSError, struct.error) as error:
        raise InputError(f"SRC is {str(path)!r}, which is not a readable zip ({error}); fetch or write it again.") from None
    for member in members:
        if not member.filename or member.filename.endswith("/"):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            contents.num_links += 1
        elif member.flag_bits & 1:
            contents.left_out.append(LeftOut(member.filename, "is encrypted"))
        elif member.compress_type not in _READ_METHODS:
            contents.left_out.append(LeftOut(member.filename, f"is compressed by method {member.compress_type}, not stored or deflated"))
        else:
            sizes = (member.compress_size, member.file_size)
            contents.add(str(path), member.filename, ZipMember(str(path), member.header_offset, *sizes, member.compress_type, member.CRC))
    return contents


def scan_tar(path: Path, shown: str) -> Contents:
    """The members of the plain tar at `path`, which people know as `shown`.

    Raises:
        InputError: it is damaged or cut short, or a name leads out of it.
    """
    contents = Contents()
    with open(path, "rb") as file:
        try:
            for item in tar.walk(file, path.stat().st_size):
                if isinstance(item, tar.Gap):
                    raise InputError(f"SRC is {shown!r}, which {item.reason}.")
                _add_member(contents, path, shown, item)
        except tarfile.ReadError as error:
            raise InputError(f"SRC is {shown!r}, which is not a readable tar ({error}); fetch or write it again.") from None
    return contents


def _add_member(contents: Contents, path: Path, shown: str, member: tar.Member) -> None:
    if member.is_plain:
        contents.add(shown, member.name, FileRange(str(path), member.offset, member.bytes))
    elif member.is_sparse:
        contents.left_out.append(LeftOut(member.name, "is a sparse file"))
    elif not member.is_directory:
        contents.num_links += 1
