"""What is wrong with shards, one line each, for people and for programs."""

from dataclasses import dataclass
from pathlib import Path

from distgan.data.shards.manifest import Manifest

EXIT_DAMAGED = 1


@dataclass(frozen=True)
class Finding:
    """Something that is damaged.

    Attributes:
        path: or URL of the shard, or path of the file of its index.
        key: of the sample; None where no single sample is meant.
    """

    path: Path | str
    key: str | None
    reason: str

    @property
    def line(self) -> str:
        """Path, key and reason, with a tab between them."""
        return "\t".join(map(printable, (str(self.path), self.key or "", self.reason)))


def printable(text: str) -> str:
    r"""Names in tars may hold anything: what would break a line or steer a terminal is written as Python does (\t, \x1b)."""
    return "".join(
        character if character.isprintable() and character != "\\" else character.encode("unicode_escape").decode() for character in text
    )


def of_indexing(manifest: Manifest) -> list[Finding]:
    """Everything that indexing found to be no whole sample, by shard."""
    damages = {shard.location: shard.record.damages for shard in (*manifest.shards, *manifest.unreadable)}
    return [Finding(path, damage.key, damage.text) for path in sorted(damages) for damage in damages[path]]


def counted(number: int, noun: str) -> str:
    """'1 sample', '1,797 samples'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
