"""Training from what cannot be indexed: on two ranks from commands and a server, stopped and resumed, with damage in it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distgan import checkpoint, train
from distgan.data.reading.upload import OnDevice, Upload
from distgan.distributed import World
from tests.http_server import serving
from tests.ranks import run_ranks
from tests.shards import encode, noise, sample_members, write_set, write_tar
from tests.training import SMALL_MODELS, everything, settings, trainer_of

GUARD_SECONDS = 120
MLP = ["--model.name", "mlp", "--model.generator_sizes", "16", "--model.discriminator_sizes", "16", "--metrics.port", "0"]


class Recording:
    """Passes real images on and remembers them."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.slices: list[OnDevice] = []

    def __next__(self) -> OnDevice:
        self.slices.append(next(self._upload))
        return self.slices[-1]


def _streamed(run_dir: Path, url: str, **data: Any) -> dict[str, dict[str, Any]]:
    return settings(
        run_dir,
        train={"batch_size": 16, "total_kimg": 0.16},
        data={"mode": "stream", "url": url, "resolution": 8, "channels": 1, "num_classes": 10} | data,
        model=SMALL_MODELS["mlp"] | {"conditional": True},
        engine={"accumulation_steps": 2},
    )


def _train(world: World, values: dict[str, dict[str, Any]]) -> dict[str, Any]:
    with trainer_of(values, world) as trainer:
        trainer.feed._upload = recorder = Recording(trainer.feed._upload)  # type: ignore[assignment]
        done = trainer.fit(lambda: False)
        labels = torch.cat([part.labels for part in recorder.slices]).tolist()
        images = [image.numpy().tobytes() for part in recorder.slices for image in part.images]
        numbers = [number for part in recorder.slices for number in part.numbers.tolist()]
        return {"done": done, "labels": labels, "images": images, "numbers": numbers, "networks": everything(trainer)}


@pytest.mark.parametrize(("source", "num_workers"), [("command", 0), ("server", 1)])
def test_two_ranks_train_from_a_stream(source: str, num_workers: int, tmp_path: Path) -> None:
    """Shards of very different lengths, fewer of them than there are streams."""
    paths = write_set(tmp_path / "shards", [3, 30])
    with serving(tmp_path / "shards") as server:
        url = f"pipe:cat {paths[0]} {paths[1]}" if source == "command" else server.url("{0000..0001}.tar")
        ranks = run_ranks(2, _train, _streamed(tmp_path / "run", url, num_workers=num_workers))
    by_bytes = {noise(number).tobytes(): number for number in range(33)}
    for rank in ranks:
        assert rank["done"]
        assert len(rank["images"]) == 10 * 8
        assert rank["labels"] == [by_bytes[image] % 10 for image in rank["images"]]
    assert ranks[0]["images"] != ranks[1]["images"]
    assert sorted(ranks[0]["numbers"] + ranks[1]["numbers"]) == list(range(160))
    for name, value in ranks[0]["networks"].items():
        assert torch.equal(value, ranks[1]["networks"][name]), name
    assert Image.open(tmp_path / "run" / "samples" / "real.png").size == (10 * 66 + 2, 8 * 66 + 2)
    assert checkpoint.read_state(tmp_path / "run" / "checkpoints", 10)["manifest_hash"] is None


def _command(run_dir: Path, url: str, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train", *MLP),
        *("--run.dir", str(run_dir), "--train.batch_size", "16", "--checkpoint.every_kimg", "0.4"),
        *("--data.mode", "stream", "--data.url", url, "--data.resolution", "8", "--data.channels", "1", "--data.num_workers", "1", *more),
    ]


def test_a_streamed_run_that_is_stopped_goes_on(tmp_path: Path) -> None:
    paths = write_set(tmp_path / "shards", [5, 40])
    url = f"pipe:cat {paths[0]} {paths[1]}"
    run_dir = tmp_path / "run"
    process = subprocess.Popen(_command(run_dir, url, "--train.total_kimg", "2000"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + GUARD_SECONDS
    while not checkpoint.steps(run_dir / "checkpoints"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=GUARD_SECONDS)
    assert "Stopped; the same command goes on" in stderr
    assert "images it has seen may come again, or late" in stderr
    stopped_at = checkpoint.read_state(run_dir / "checkpoints", checkpoint.steps(run_dir / "checkpoints")[-1])["num_images"]
    total_kimg = str(stopped_at / 1000 + 0.16)
    resumed = subprocess.run(
        _command(run_dir, url, "--train.total_kimg", total_kimg), capture_output=True, text=True, timeout=GUARD_SECONDS, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "Resuming" in resumed.stderr
    assert resumed.stderr.count("images it has seen may come again, or late") == 1
    events = [event for event in map(json.loads, (run_dir / "log.jsonl").read_text().splitlines()) if "event" in event]
    assert [event["event"] for event in events] == ["start", "stream", "resume", "stream"]
    assert events[3]["num_images"] == stopped_at
    assert "goes unnoticed" in events[3]["text"]


def test_damage_in_a_stream_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = [*sample_members(range(200)), ("bad.png", b"no image"), ("bad.cls", b"1")]
    url = str(write_tar(tmp_path / "x.tar", members))
    data = ["--data.mode", "stream", "--data.url", url, "--data.resolution", "8", "--data.channels", "1", "--data.num_workers", "1"]
    run = [*MLP, *data, "--run.dir", str(tmp_path / "run"), "--train.total_kimg", "2"]
    assert train.main([*run, "--data.on_error", "skip", "--metrics.log_every_kimg", "0.3"]) == 0
    stderr = capsys.readouterr().err
    assert stderr.count(f"warning: skipped: {url} holds 'bad.png', which is not a readable image") == 1
    skips = [event for event in map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines()) if event.get("event") == "skip"]
    assert [(skip["shard"], skip["key"]) for skip in skips] == [(url, "bad")]


def test_a_dry_run_opens_no_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"pipe:touch {tmp_path}/{{a,b}}; cat x.tar"
    data = ["--data.mode", "stream", "--data.url", url, "--data.resolution", "16", "--data.num_classes", "7"]
    assert train.main([*MLP, *data, "--model.conditional", "--dry-run", "--run.dir", str(tmp_path / "run")]) == 0
    assert "# data: 2 shards, streamed; 7 classes, images 16x16x3\n" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_digits_can_be_streamed_too(tmp_path: Path) -> None:
    data = ["--data.mode", "stream", "--data.resolution", "32", "--data.channels", "1", "--data.num_workers", "0"]
    assert train.main([*MLP, *data, "--run.dir", str(tmp_path / "run"), "--train.total_kimg", "0.064"]) == 0


def test_images_of_other_sizes_are_scaled(tmp_path: Path) -> None:
    """What indexed data would be refused for, or asked about."""
    members = [(f"{number}.png", encode(noise(number, 10 + number, 30, 3))) for number in range(20)]
    values = _streamed(tmp_path / "run", str(write_tar(tmp_path / "x.tar", members)), channels=None, num_classes=None)
    values["model"] = SMALL_MODELS["mlp"]
    with trainer_of(values) as trainer:
        trainer.iterate()
        assert next(trainer.feed.reader).images.shape == (8, 3, 8, 8)
