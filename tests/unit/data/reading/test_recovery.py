"""What is whole in a damaged shard is found, what is not is counted, nothing comes out that was not packed; hostile bytes cost little."""

import gzip
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from distgan.data.decoding import Decoder, decode_into
from distgan.data.shards.grouping import NO_LABEL
from distgan.data.shards.index import ShardRecord, index_path, index_shard, load_index, load_keys
from tests.shards import encode, member_offsets, noise, sample_members, write_tar

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
END = bytes(1024)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "shard.tar"


def found(shard: Path) -> tuple[ShardRecord, dict[str, int]]:
    """The record, and the label of every sample that is left, by its key."""
    record = index_shard(shard, shard.parent)
    file = index_path(shard, shard.parent)
    labels = load_index(file, record.num_samples)["label"].tolist()
    return record, dict(zip(load_keys(file, record.num_samples), labels, strict=True))


def block(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: bytes) -> bytes:
    """A header with the right checksum; `fields` by where they begin (at_124=...) are put into it."""
    information = tarfile.TarInfo(name)
    information.size, information.type = size, kind
    header = bytearray(information.tobuf(tarfile.GNU_FORMAT))
    for place, value in fields.items():
        start = int(place.removeprefix("at_"))
        header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return block(name, len(content), kind) + content + bytes(-len(content) % 512)


def samples(*numbers: int) -> bytes:
    return b"".join(member(name, content) for name, content in sample_members(numbers))


PAX_SPARSE = b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
HOSTILE = {
    "a sparse file whose map goes on": block("a.bin", 512, tarfile.GNUTYPE_SPARSE, at_482=b"\1"),
    "a sparse file of pax without a map": member("x", PAX_SPARSE, tarfile.XHDTYPE) + member("a.bin", b"9" * 600),
    "a sparse file of pax with a long map": member("x", PAX_SPARSE, tarfile.XHDTYPE) + member("a.bin", b"99999999\n1\n"),
    "1,500 pax headers in a row": member("x", b"12 foo=bar\n\n", tarfile.XHDTYPE) * 1500,
    "1,500 long names in a row": member("x", b"a.png\0", tarfile.GNUTYPE_LONGNAME) * 1500,
    "pax headers of digits": member("x", b"1" * 60_000, tarfile.XHDTYPE) * 20,
    "a pax header of zeros": member("x", bytes(512), tarfile.XHDTYPE),
    "a pax header that claims 8 GB": block("x", 2**33 - 1, tarfile.XHDTYPE),
    "a long name that claims 8 GB": block("x", 2**33 - 1, tarfile.GNUTYPE_LONGNAME),
    "a long name that claims 10^18 bytes": block("x", 0, tarfile.GNUTYPE_LONGNAME, at_124=b"\x80\0\0\0" + (2**60).to_bytes(8, "big")),
    "a long name of less than nothing": block("x", 0, tarfile.GNUTYPE_LONGNAME, at_124=b"\xff" * 10 + b"\xfc\0"),
    "a long name of nothing": member("x", bytes(8), tarfile.GNUTYPE_LONGNAME),
    "a member that claims 2 GB": block("a.bin", 2**31),
    "a member of unknown type that claims 2 GB": block("a.bin", 2**31, b"Q"),
    "a sparse member that claims 2 GB": block("a.bin", 2**31, tarfile.GNUTYPE_SPARSE),
    "a directory of less than nothing": block("a", 0, tarfile.DIRTYPE, at_124=b"\xff" * 10 + b"\xfc\0"),
    "a member of unknown type of less than nothing": block("a", 0, b"Q", at_124=b"\xff" * 10 + b"\xfc\0"),
    "garbage": np.random.default_rng(0).bytes(3000),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("bytes_between", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_cost_no_sample_beside_them(shard: Path, bytes_between: bytes) -> None:
    shard.write_bytes(samples(1, 2) + bytes_between + samples(3, 4) + END)
    record, labels = found(shard)
    assert labels | {"000003": 3} == {"000001": 1, "000002": 2, "000003": 3, "000004": 4}  # its header may be taken for a map
    assert record.num_damaged > 4 - len(labels)


@pytest.mark.timeout(60)
def test_headers_that_claim_much_cost_no_memory(shard: Path) -> None:
    """Also where the file does hold as much: a long name of 256 MB."""
    with open(shard, "wb") as file:
        file.write(samples(1) + block("x", 2**28, tarfile.GNUTYPE_LONGNAME))
        file.seek(2**28, os.SEEK_CUR)
        file.write(samples(2) + END)
    tracemalloc.start()
    record, labels = found(shard)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels == {"000001": 1, "000002": 2}
    assert record.num_damaged > 1000, "by its bytes"
    assert peak < 2**24


@pytest.mark.timeout(30)
def test_zero_blocks_between_headers_do_not_make_it_slow(shard: Path) -> None:
    """Each is taken for the end, of which a megabyte was read at first: minutes for these 30 MB."""
    shard.write_bytes(samples(1) + (block("a.txt") + bytes(512)) * 30_000 + samples(2) + END)
    assert found(shard)[1] == {"000001": 1, "000002": 2}


@pytest.fixture
def twenty(shard: Path) -> tuple[bytearray, dict[str, tuple[int, int]]]:
    """A shard of twenty samples: its bytes, and where its members are."""
    write_tar(shard, sample_members(range(20)))
    return bytearray(shard.read_bytes()), member_offsets(shard)


@pytest.mark.parametrize("name", ["000003.cls", "000003.png"])
def test_a_damaged_header_costs_its_own_sample(shard: Path, twenty: tuple[bytearray, dict[str, tuple[int, int]]], name: str) -> None:
    """Not the neighbours: they have an image and a label, and nothing else can be missed."""
    content, offsets = twenty
    content[offsets[name][0] + 20] ^= 1
    shard.write_bytes(content)
    record, labels = found(shard)
    assert labels == {f"{number:06d}": number % 10 for number in range(20) if number != 3}
    assert [damage.key for damage in record.damages] == [None, "000003"]
    assert "in which a part of it may be lost" in record.damages[1].text


@pytest.mark.parametrize(("num_bytes", "lost"), [(-13, {7}), (-600, {7, 8}), (13, {7}), (600, {7})])
def test_bytes_lost_or_added_cost_hardly_more_than_a_sample(
    shard: Path, twenty: tuple[bytearray, dict[str, tuple[int, int]]], num_bytes: int, lost: set[int]
) -> None:
    """From there on no header begins at a multiple of 512."""
    content, offsets = twenty
    place = offsets["000007.png"][1] + 30
    shard.write_bytes(content[:place] + content[place - num_bytes :])
    assert found(shard)[1] == {f"{number:06d}": number % 10 for number in range(20) if number not in lost}


def test_a_damaged_beginning_costs_its_own_samples(shard: Path, twenty: tuple[bytearray, dict[str, tuple[int, int]]]) -> None:
    content, offsets = twenty
    end = offsets["000002.cls"][0]
    content[:end] = np.random.default_rng(0).bytes(end)
    shard.write_bytes(content)
    record, labels = found(shard)
    assert sorted(labels) == [f"{number:06d}" for number in range(2, 20)]
    assert record.num_damaged == 2


def test_lost_samples_without_names_are_counted_by_their_bytes(shard: Path, twenty: tuple[bytearray, dict[str, tuple[int, int]]]) -> None:
    """However many there are, of what is left."""
    content, offsets = twenty
    start, end = offsets["000002.cls"][0], offsets["000019.cls"][0]
    content[start:end] = bytes(end - start)
    shard.write_bytes(content)
    record, labels = found(shard)
    assert sorted(labels) == ["000000", "000001", "000019"]
    assert record.num_damaged == 17


def test_a_label_that_may_be_lost_is_missed(shard: Path) -> None:
    """An image without a label stands beside a gap: it had one, as the others have."""
    content = samples(1) + member("000002.png", encode(noise(2))) + b"x" * 512 + samples(3) + END
    shard.write_bytes(content)
    assert sorted(found(shard)[1]) == ["000001", "000003"]


def test_a_label_under_another_name_is_missed(shard: Path) -> None:
    """The bytes of a long name have no checksum."""
    shard.write_bytes(samples(1) + member("000009.cls", b"2") + member("000002.png", encode(noise(2))) + samples(3) + END)
    record, labels = found(shard)
    assert sorted(labels) == ["000001", "000003"]
    assert [damage.key for damage in record.damages] == ["000009", "000002"]


def test_images_without_labels_stay_where_none_has_one(shard: Path) -> None:
    images = [member(f"{number}.png", encode(noise(number))) for number in range(4)]
    shard.write_bytes(images[0] + images[1] + b"x" * 512 + images[2] + images[3] + END)
    record, labels = found(shard)
    assert labels == dict.fromkeys("0123", NO_LABEL)
    assert record.num_damaged == 1


def test_every_copy_of_a_doubled_sample_counts(shard: Path) -> None:
    """One of them may stand where another sample was."""
    shard.write_bytes(samples(1, 2, 1, 3) + END)
    record, labels = found(shard)
    assert sorted(labels) == ["000002", "000003"]
    assert record.num_damaged == 2


@pytest.mark.parametrize("program", ["gunzip", "unxz"])
def test_a_compressed_shard_is_told_how_to_unpack(shard: Path, program: str) -> None:
    shard.write_bytes(gzip.compress(samples(1) + END) if program == "gunzip" else b"\xfd7zXZ\0" + bytes(1000))
    (damage,) = index_shard(shard, shard.parent).damages
    assert damage.text.startswith("is compressed")
    assert f"unpack it ({program})" in damage.text


# Random faults.


def cut(random: np.random.Generator, content: bytes, end: int) -> bytes:
    return content[: random.integers(end)]


def flipped_bits(random: np.random.Generator, content: bytes, end: int) -> bytes:
    damaged = bytearray(content)
    for place in random.integers(0, end, random.choice([1, 2, 5, 20])):
        damaged[place] ^= 1 << random.integers(8)
    return bytes(damaged)


def zeroed_blocks(random: np.random.Generator, content: bytes, end: int) -> bytes:
    damaged = bytearray(content)
    for number in random.integers(0, end // 512, random.choice([1, 2, 4, 10])):
        damaged[512 * number : 512 * number + 512] = bytes(512)
    return bytes(damaged)


def zeroed_range(random: np.random.Generator, content: bytes, end: int) -> bytes:
    start = random.integers(end)
    stop = min(end, start + random.integers(1, 20_000))
    return content[:start] + bytes(stop - start) + content[stop:]


def garbage(random: np.random.Generator, content: bytes, end: int) -> bytes:
    start = random.integers(end)
    stop = min(end, start + random.integers(1, 6000))
    return content[:start] + random.bytes(stop - start) + content[stop:]


def overwritten_range(random: np.random.Generator, content: bytes, end: int) -> bytes:
    length = random.integers(1, 6000)
    source, target = random.integers(0, end - length, 2)
    return content[:target] + content[source : source + length] + content[target + length :]


def doubled_range(random: np.random.Generator, content: bytes, end: int) -> bytes:
    start, length = random.integers(end), random.integers(1, 6000)
    return content[: start + length] + content[start:]


def lost_range(random: np.random.Generator, content: bytes, end: int) -> bytes:
    start, length = random.integers(end), random.integers(1, 6000)
    return content[:start] + content[start + length :]


FAULTS = [cut, flipped_bits, zeroed_blocks, zeroed_range, garbage, overwritten_range, doubled_range, lost_range]
SHORTENING = (cut, lost_range)  # what is gone without a trace cannot be counted


def pixels_of(number: int) -> np.ndarray:
    """Noise in large dots: a PNG of it is really compressed, and decoders do not see all that happens to it."""
    side = 3 + number % 7
    return np.kron(noise(number, side, side), np.ones((4, 4), np.uint8))


def label_of(number: int) -> int:
    return 37 * number % 1000


def _rows(shard: Path, record: ShardRecord) -> Iterator[tuple[str, np.ndarray, int]]:
    """Key, pixels and label of every sample, as a run reads them."""
    content = shard.read_bytes()
    file = index_path(shard, shard.parent)
    rows = load_index(file, record.num_samples).tolist()
    for key, (offset, num_bytes, _, label, width, height, channels, decoder) in zip(load_keys(file, len(rows)), rows, strict=True):
        pixels = np.zeros((height, width, channels), np.uint8)
        decode_into(pixels, content[offset : offset + num_bytes], Decoder(decoder), width, height, channels)
        yield key, pixels[..., 0], label


@pytest.mark.timeout(120)
@pytest.mark.parametrize("label_first", [True, False], ids=["label-first", "image-first"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.replace("_", "-"))
def test_random_faults(shard: Path, fault: Callable[[np.random.Generator, bytes, int], bytes], format: str, label_first: bool) -> None:
    """Whatever comes out was packed like this, and the others are counted.

    A tar has no checksum of contents, so a fault within a label can make another one of it: such a label is not compared. The last sample
    is spared: zeros in its place are the end of a tar.
    """
    members = [
        member
        for number in range(20)
        for member in sorted(
            [(f"{number:06d}.cls", str(label_of(number)).encode()), (f"{number:06d}.png", encode(pixels_of(number)))],
            reverse=not label_first,
        )
    ]
    whole = write_tar(shard, members, FORMATS[format]).read_bytes()
    offsets = member_offsets(shard)
    places = {name: start for name, (_, start) in offsets.items()}
    end, _ = offsets[members[-2][0]]
    random = np.random.default_rng([FAULTS.index(fault), label_first, *format.encode()])
    num_right = 0
    for _ in range(12):
        damaged = fault(random, whole, end)
        shard.write_bytes(damaged)
        record = index_shard(shard, shard.parent)
        rows = list(_rows(shard, record)) if record.num_samples else []
        for key, pixels, label in rows:
            assert np.array_equal(pixels, pixels_of(int(key)))
            text = slice(places[f"{key}.cls"], places[f"{key}.cls"] + len(str(label_of(int(key)))))
            is_hit = len(damaged) == len(whole) and damaged[text] != whole[text]
            assert is_hit or label == label_of(int(key)), key
        assert len({key for key, _, _ in rows}) == len(rows)
        assert len(rows) + record.num_damaged >= 20 or fault in SHORTENING
        num_right += len(rows)
    assert num_right > 12 * 20 / 3
