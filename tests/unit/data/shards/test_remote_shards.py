"""Shards behind a web server: the same samples as local ones, with a manifest beside them or without, however the server behaves."""

import contextlib
import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distgan.batch import BatchLayout
from distgan.data.__main__ import main
from distgan.data.plan import SamplePlan
from distgan.data.reading import remote_file
from distgan.data.reading.reader import Reader
from distgan.data.remote import storage
from distgan.data.remote.cache import CacheSettings
from distgan.data.remote.transfer import Patience
from distgan.data.shards.damage import DamagePolicy
from distgan.data.shards.index import index_shard
from distgan.data.shards.manifest import Manifest, open_manifest
from distgan.data.shards.remote_shards import beside, directory_of, fetch_index, name_of
from distgan.data.shards.urls import resolve
from distgan.errors import InputError, RunError
from tests.http_server import Server, serving
from tests.shards import flip_bit, member_offsets, write_set

SIZES = [7, 3, 12, 9, 5, 4]
PATTERN = "{0000..0005}.tar"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A directory of six shards; tests may change it."""
    write_set(tmp_path / "served", SIZES)
    return tmp_path / "served"


@pytest.fixture
def server(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves them; what is brought goes below tmp_path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(storage, "PATIENCE", Patience(retry_seconds=2.0, stall_seconds=0.5))
    with serving(served) as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> CacheSettings:
    return CacheSettings(tmp_path / "cache", 10**9)


def batches(
    manifest: Manifest, settings: CacheSettings | None, count: int = 10, num_workers: int = 0, fetch: bool = False, **options
) -> tuple[torch.Tensor, Reader]:
    """The images of the first batches of 8."""
    plan = SamplePlan(np.array([shard.record.num_samples for shard in manifest.shards]), manifest.hash, 0, shuffle_window=2)
    reader = Reader(manifest, plan, BatchLayout(8, 1, 1, 0), 8, 1, num_workers, cache=settings, fetch=fetch, **options)
    with contextlib.closing(reader):
        return torch.cat([one.images for one in itertools.islice(reader, count)]), reader


def local(served: Path) -> torch.Tensor:
    return batches(open_manifest(resolve(str(served))), None)[0]


def publish(served: Path) -> None:
    """Put a manifest beside the shards."""
    open_manifest(resolve(str(served)))


def test_parts_of_urls() -> None:
    url = "https://user:secret@host:8/data/x-0.tar?key=1"
    assert name_of(url) == "x-0.tar"
    assert directory_of(url) == "https://user:secret@host:8/data/?key=1"
    assert beside(url, "manifest.json") == "https://user:secret@host:8/data/manifest.json?key=1"
    assert directory_of("s3://bucket/x.tar") == "s3://bucket/"


@pytest.mark.parametrize("url", [PATTERN, ""], ids=["pattern", "directory"])
@pytest.mark.parametrize("fetch", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_with_a_manifest_beside_them(
    served: Path, server: Server, settings: CacheSettings, url: str, fetch: bool, num_workers: int
) -> None:
    """Nothing is indexed, and no shard is read before it is needed."""
    publish(served)
    remote = open_manifest(resolve(server.url(url)), cache=settings)
    assert remote.hash == open_manifest(resolve(str(served))).hash
    assert all(server.num_requests(f"/{number:04d}.tar") == 0 for number in range(6))
    images, _ = batches(remote, settings, num_workers=num_workers, fetch=fetch)
    assert torch.equal(images, local(served))


def test_without_a_manifest_each_shard_is_read_once(served: Path, server: Server, settings: CacheSettings) -> None:
    """It is indexed on the way into the cache."""
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    images, reader = batches(remote, settings)
    statistics = reader.take_statistics()
    assert (statistics.cache_hits, statistics.cache_misses) == (80, 0)
    assert torch.equal(images, local(served))
    again = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert again == remote
    gets = [request for request in server.requests if request.path.endswith(".tar") and "range" not in request.headers]
    assert len({request.path for request in gets}) == 6


def test_a_shard_that_has_changed_is_indexed_anew(served: Path, server: Server, settings: CacheSettings) -> None:
    before = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    write_set(served, [7, 3, 12, 8, 6, 4])
    after = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert after.hash != before.hash
    assert torch.equal(batches(after, settings)[0], local(served))


@pytest.mark.parametrize("fetch", [False, True])
def test_a_shard_that_changes_under_a_run_ends_it_by_its_name(served: Path, server: Server, settings: CacheSettings, fetch: bool) -> None:
    """Also where the fetcher notices it first."""
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    for number in range(6):
        flip_bit(served / f"{number:04d}.tar", member_offsets(served / f"{number:04d}.tar")[f"{sum(SIZES[:number]):06d}.png"][1] + 60)
    found = (
        r"http://127.*tar has changed since it was indexed"
        if fetch
        else r"The sample '0000\d\d' of http://127.*tar is not what its index says"
    )
    with pytest.raises(RunError, match=rf"{found}.* index the shards anew where they lie"):
        batches(remote, settings, fetch=fetch)


@pytest.mark.parametrize("fetch", [False, True])
def test_a_shard_of_another_size_is_no_damaged_sample(
    served: Path, server: Server, settings: CacheSettings, fetch: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its server says so; and to index the set again from here, where the manifest beside it is the old one, finds it, too."""
    publish(served)
    write_set(served / "others", [9])
    shutil.copy(served / "others" / "0000.tar", served / "0002.tar")
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    with pytest.raises(RunError, match=r"0002\.tar has 20480 bytes instead of \d+: it has changed\. Put the right file back there"):
        batches(remote, settings, fetch=fetch)
    assert main(["index", server.url(PATTERN)]) == 1
    told = capsys.readouterr()
    assert told.out.startswith(f"{server.url('0002.tar')}\t\thas 20480 bytes, but had ")
    assert told.err.endswith("A run refuses what has changed; index the shards where they lie, and put that manifest beside them.\n")


def test_ranged_reads_bring_what_is_needed_and_no_more(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    _, reader = batches(remote, settings, count=1)
    statistics = reader.take_statistics()
    assert (statistics.samples, statistics.cache_hits, statistics.cache_misses) == (8, 0, 8)
    gets = [request for request in server.requests if request.path.endswith(".tar")]
    assert len(gets) == 8
    assert all("range" in request.headers for request in gets)
    assert settings.cache().used_bytes() == 0


def test_a_server_without_ranges_is_read_by_whole_shards(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    for number in range(6):
        server.faults[f"/{number:04d}.tar"].ignores_range = True
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert torch.equal(batches(remote, settings)[0], local(served))
    assert settings.cache().used_bytes() == sum(shard.record.bytes for shard in remote.shards)


def test_two_directories_with_the_same_names(tmp_path: Path, server: Server, settings: CacheSettings, served: Path) -> None:
    """000.tar of one is not 000.tar of the other."""
    shutil.copytree(served, served / "other")
    write_set(served / "other", [2, 2])
    manifests = [open_manifest(resolve(server.url(url)), cache=settings) for url in ("{0000..0001}.tar", "other/{0000..0001}.tar")]
    assert manifests[0].hash != manifests[1].hash
    both = open_manifest(resolve(server.url("{,other/}{0000..0001}.tar")), cache=settings)
    assert [shard.record.num_samples for shard in both.shards] == [7, 3, 2, 2]
    assert batches(both, settings)[0].unique(dim=0).shape[0] == 7 + 3  # the others are images of the same numbers


def test_local_and_remote_shards_together(tmp_path: Path, served: Path, server: Server, settings: CacheSettings) -> None:
    write_set(tmp_path / "here", [5])
    both = open_manifest([*resolve(str(tmp_path / "here")), *resolve(server.url(PATTERN))], cache=settings)
    _, reader = batches(both, settings)
    statistics = reader.take_statistics()
    assert statistics.samples == 80
    assert 0 < statistics.cache_hits < 80


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_server_that_fails_for_good_ends_the_run_by_a_sentence(
    served: Path, server: Server, settings: CacheSettings, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also under on_error skip: a server that is down is no damage."""
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    for number in range(6):
        server.faults[f"/{number:04d}.tar"].status = 403
    with pytest.raises(RunError, match=r"http://127.*/000\d\.tar .*403"):
        batches(remote, settings, num_workers=num_workers, policy=DamagePolicy(skip=True, max_skipped_share=0.9))


def test_hiccups_cost_time_and_nothing_else(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    for number in range(6):
        faults = server.faults[f"/{number:04d}.tar"]
        faults.statuses, faults.resets, faults.stalls = [503, 503], 1, number % 2
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert torch.equal(batches(remote, settings, fetch=True)[0], local(served))


def test_a_cache_that_is_too_small_for_a_shard_reads_ranges(served: Path, server: Server, tmp_path: Path) -> None:
    publish(served)
    settings = CacheSettings(tmp_path / "small", 5000)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert torch.equal(batches(remote, settings, fetch=True, num_workers=1)[0], local(served))
    assert settings.cache().used_bytes() <= 5000


def test_a_fetcher_that_is_killed_is_not_missed(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    plan = SamplePlan(np.array(SIZES), remote.hash, 0, shuffle_window=2)
    with contextlib.closing(Reader(remote, plan, BatchLayout(8, 1, 1, 0), 8, 1, 0, cache=settings, fetch=True)) as reader:
        assert reader._fetcher is not None
        os.kill(reader._fetcher._process.pid, signal.SIGKILL)
        reader._fetcher._process.wait()
        images = torch.cat([one.images for one in itertools.islice(reader, 10)])
    assert torch.equal(images, local(served))


def test_the_fetcher_fills_the_cache_with_what_comes_next(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    plan = SamplePlan(np.array(SIZES), remote.hash, 0, shuffle_window=1)
    with contextlib.closing(Reader(remote, plan, BatchLayout(1, 1, 1, 0), 8, 1, 0, cache=settings, fetch=True)) as reader:
        next(reader)
        wanted = [remote.shards[number] for number in reader._fetcher._wanted]  # type: ignore[union-attr]
        cache = settings.cache()
        for shard in wanted:
            with contextlib.suppress(TimeoutError):
                _wait_for(lambda shard=shard: cache.path(shard.location, shard.record.sha256, shard.record.bytes))
        assert all(cache.path(shard.location, shard.record.sha256, shard.record.bytes) for shard in wanted)


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{0000..0006}.tar", r"0006\.tar .*404"),
        ("nothing-here/", "does not list"),
        ("*.tar", r"\* has a meaning in local paths only"),
    ],
)
def test_what_is_not_there_is_refused(server: Server, settings: CacheSettings, url: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_manifest(resolve(server.url(url)), cache=settings)


def test_a_damaged_shard_is_named_by_its_url(served: Path, server: Server, settings: CacheSettings) -> None:
    os.truncate(served / "0003.tar", 3000)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:\d+/0003\.tar .*cut short"):
        open_manifest(resolve(server.url(PATTERN)), cache=settings)
    (served / "0003.tar").write_bytes(b"no tar at all")
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:\d+/0003\.tar is not a readable tar"):
        open_manifest(resolve(server.url(PATTERN)), cache=settings)


def test_an_index_beside_them_that_is_not_the_manifests_is_refused(served: Path, server: Server, settings: CacheSettings) -> None:
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    write_set(served, [7, 3, 12, 9, 5, 3])
    index_shard(served / "0005.tar", served)
    with pytest.raises(RunError, match=r"0005\.tar .*another checksum|0005\.tar .*not what"):
        batches(remote, settings)


def test_requests_run_side_by_side(served: Path, server: Server, settings: CacheSettings) -> None:
    """Eight samples at 0.2 s each come in far less than 1.6 s: the server sees them together."""
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    for shard in remote.shards:
        fetch_index(shard)
    assert remote_file.REQUESTS >= 8
    for number in range(6):
        server.faults[f"/{number:04d}.tar"].latency_seconds = 0.2
    batches(remote, settings, count=4)
    gets = [request for request in server.requests if request.path.endswith(".tar") and "range" in request.headers]
    assert len({request.connection for request in gets}) > 2


def test_labels_come_with_the_index_that_lies_beside_the_shards(served: Path, server: Server, settings: CacheSettings) -> None:
    """And no shard comes for them."""
    publish(served)
    remote = open_manifest(resolve(server.url(PATTERN)), cache=settings)
    assert np.concatenate(remote.labels_by_shard()).tolist() == [number % 10 for number in range(sum(SIZES))]
    with pytest.raises(InputError, match=r"data\.num_classes is 9, but the sample '000009' of http://.*/0001\.tar has the label 9"):
        remote.check_classes(9)
    assert not [request for request in server.requests if request.path.endswith(".tar")]
