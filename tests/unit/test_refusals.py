"""Every bad input: sentences that name the field, the value and the mend, exit code 2, before any process group starts."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from distgan import train
from distgan.distributed import World

Prepare = Callable[[Path], Sequence[str]]


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (width, height), 128).save(content, "png")
    return content.getvalue()


def _squares(number: int, size: int, labelled: bool = True) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for sample in range(number):
        members[f"{sample:04d}.png"] = _png(size, size)
        if labelled:
            members[f"{sample:04d}.cls"] = b"0"
    return members


def _not_a_tar(directory: Path) -> Sequence[str]:
    (directory / "x.tar").write_bytes(b"these are not the bytes of a tar" * 100)
    return ["--data.url", str(directory / "x.tar")]


def _another_configuration(directory: Path) -> Sequence[str]:
    run = ["--run.dir", str(directory / "old"), "--metrics.port", "0", "--train.total_kimg", "0.064"]
    assert train.main([*run, "--model.name", "mlp"]) == 0
    changed = [
        "--train.batch_size",
        "32",
        "--model.latent_size",
        "7",
        "--checkpoint.keep",
        "9",
        "--data.augment.flip",
        "--data.balance_classes",
    ]
    return [*run, "--model.name", "mlp", *changed]


def _changed_data(directory: Path) -> Sequence[str]:
    shard = _tar(directory / "x.tar", _squares(64, 8))
    run = ["--run.dir", str(directory / "old"), "--metrics.port", "0", "--train.total_kimg", "0.064", "--model.name", "mlp"]
    assert train.main([*run, "--data.url", str(shard)]) == 0
    _tar(shard, _squares(65, 8))
    return [*run, "--data.url", str(shard)]


def _a_file_in_the_way(directory: Path) -> Sequence[str]:
    (directory / "file").write_text("")
    return ["--run.dir", str(directory / "file" / "run")]


def _not_a_run(directory: Path) -> Sequence[str]:
    (directory / "thesis").mkdir()
    (directory / "thesis" / "chapter-1.tex").write_text("all of my work")
    return ["--run.dir", str(directory / "thesis"), "--run.overwrite"]


def _with(*arguments: str) -> Prepare:
    return lambda directory: arguments


def _stream(*arguments: str) -> Prepare:
    return _with("--data.mode", "stream", *arguments)


def _becomes_a_stream(directory: Path) -> Sequence[str]:
    run = ["--run.dir", str(directory / "old"), "--metrics.port", "0", "--train.total_kimg", "0.064", "--model.name", "mlp"]
    assert train.main(run) == 0
    return [*run, "--data.mode", "stream", "--data.resolution", "32"]


def _with_file(name: str, content: str, option: str = "--config") -> Prepare:
    def prepare(directory: Path) -> Sequence[str]:
        (directory / name).write_text(content)
        return [option, str(directory / name)]

    return prepare


def _with_shard(members: dict[str, bytes], *arguments: str) -> Prepare:
    return lambda directory: ["--data.url", str(_tar(directory / "x.tar", members)), *arguments]


def _deepspeed(settings: str, *arguments: str) -> Prepare:
    """DeepSpeed with a file of its own settings."""
    with_file = _with_file("ds.json", settings, "--engine.deepspeed_config")
    return lambda directory: ["--engine.name", "deepspeed", *with_file(directory), *arguments]


BAD_INPUTS: dict[str, tuple[Prepare, list[str]]] = {
    "unknown flag": (_with("--train.batchsize", "12"), ["train.batchsize is not a setting; did you mean train.batch_size?"]),
    "unknown section": (_with("--trian.batch_size", "12"), ["trian.batch_size is not a setting; did you mean train.batch_size?"]),
    "unknown key in a file": (
        _with_file("a.yaml", "penalty:\n  wieght: 3\n"),
        ["penalty.wieght is not a setting; did you mean penalty.weight?"],
    ),
    "unknown flag of a section in a section": (
        _with("--data.augment.flipp"),
        ["data.augment.flipp is not a setting; did you mean data.augment.flip?"],
    ),
    "unknown key of a section in a section": (
        _with_file("a.yaml", "data: {augment: {rotation: 3}}\n"),
        ["data.augment.rotation is not a setting; did you mean data.augment.rotation_degrees?"],
    ),
    "unknown section in a section": (
        _with_file("a.yaml", "data: {augmentation: {flip: true}}\n"),
        ["data.augmentation is not a setting; did you mean data.augment?"],
    ),
    "option of another model": (
        _with("--model.name", "mlp", "--model.max_channels", "8"),
        ["model.max_channels is a setting of model.name dcgan, but model.name is mlp"],
    ),
    "unknown model": (_with("--model.name", "dcgna"), ["model.name is 'dcgna'", "dcgan, mlp"]),
    "a stray word": (_with("resume"), ["'resume' belongs to no setting", "--section.key value"]),
    "wrong type": (_with("--train.batch_size", "many"), ["train.batch_size is 'many'", "valid integer"]),
    "wrong type in a file": (_with_file("a.yaml", "train:\n  batch_size: [1]\n"), ["train.batch_size is [1]", "valid integer"]),
    "not a number": (_with("--penalty.weight", "nan"), ["penalty.weight is 'nan'", "finite"]),
    "out of range": (_with("--ema.half_life_kimg", "0"), ["ema.half_life_kimg is '0'", "greater than 0"]),
    "no such choice": (_with("--loss.name", "l2"), ["loss.name is 'l2'", "'non_saturating', 'hinge' or 'wasserstein'"]),
    "a section that is none": (_with_file("a.yaml", "train: 5\n"), ["train is 5, but it is a section"]),
    "not a mapping": (_with_file("a.yaml", "- train\n"), ["a.yaml holds a list", "sections"]),
    "not YAML": (_with_file("a.yaml", "train: {batch_size: 4"), ["a.yaml is not valid YAML", "line"]),
    "no such file": (_with("--config", "nowhere.yaml"), ["--config nowhere.yaml cannot be read", "No such file"]),
    "a dotted key in a file": (
        _with_file("a.yaml", "train.batch_size: 16\n"),
        ["train.batch_size stands as one key in a file; write its levels apart, train: {batch_size: 16}"],
    ),
    "dotted keys of a section in a section": (
        _with_file("a.yaml", "data.augment.flip: true\n"),
        ["data.augment.flip stands as one key in a file; write its levels apart, data: {augment: {flip: True}}"],
    ),
    "a dotted section in a file": (
        _with_file("a.yaml", "data: {augment.zoom: 0.1}\ndata.augment: {zoom: 0.1}\n"),
        [
            "data.augment.zoom stands as one key in a file; write its levels apart, data: {augment: {zoom: 0.1}}",
            "data.augment stands as one key in a file; write its levels apart, data: {augment: {'zoom': 0.1}}",
        ],
    ),
    "a section twice in a file": (
        _with_file("a.yaml", "train: {batch_size: 8}\ntrain: {total_kimg: 1}\n"),
        ["the key 'train' stands twice"],
    ),
    "a key that is a mapping": (_with_file("a.yaml", "train: {{batch_size}}\n"), ["a.yaml is not valid YAML", "unhashable key"]),
    "a section as a flag": (_with("--train", "foo"), ["The command line cannot be read: --train is a section; write --section.key value"]),
    "a section in a section as a flag": (
        _with("--run.seed", "1", "--data.augment=on"),
        ["The command line cannot be read: --data.augment is a section; write --section.key value"],
    ),
    "a number for a section in a section": (
        _with("--data.augment", "3"),
        ["data.augment is 3, but it is a section; give its settings as data.augment.key"],
    ),
    "a list that does not end": (
        _with("--model.name", "mlp", "--model.generator_sizes", "[1"),
        ["The command line cannot be read", "model.generator_sizes", "Missing end delimiter"],
    ),
    "more augmentation than there is": (
        _with("--data.augment.rotation_degrees", "181", "--data.augment.shift", "1", "--data.augment.zoom", "1"),
        [
            "data.augment.rotation_degrees is '181'; input should be less than or equal to 180",
            "data.augment.shift is '1'; input should be less than 1",
            "data.augment.zoom is '1'; input should be less than 1",
        ],
    ),
    "a directory that cannot be made": (_with("--run.dir", "/proc/x/y"), ["run.dir is '/proc/x/y'", "cannot be made"]),
    "a sample's members apart": (
        _with_shard({"0.png": _png(32, 32), "1.png": _png(32, 32), "2.cls": b"1", "2b.png": _png(32, 32), "2.png": _png(32, 32)}),
        ["x.tar does not hold the members of the sample '2' side by side", "tar --sort=name"],
    ),
    "an extension that begins too early": (_with_shard({"a.v2.png": _png(32, 32)}), ["holds no image", "only v2.png", "first dot"]),
    "every bad value at once": (
        _with("--train.batchsize", "12", "--train.total_kimg", "-1", "--loss.name", "l2", "--penalty.every", "x"),
        ["train.batchsize is not a setting", "train.total_kimg is '-1'", "loss.name is 'l2'", "penalty.every is 'x'"],
    ),
    "a batch that does not divide": (
        _with("--train.batch_size", "20", "--engine.accumulation_steps", "3"),
        ["train.batch_size is 20", "1 ranks x engine.accumulation_steps 3", "multiple of 3"],
    ),
    "batch norm under a per-sample penalty": (
        _with("--model.discriminator_norm", "batch"),
        ["penalty.name is 'r1'", "set model.discriminator_norm to spectral or none, or penalty.name to none"],
    ),
    "sharding without DeepSpeed": (
        _with("--engine.zero_stage", "1"),
        ["engine.zero_stage is 1, but engine.name is 'ddp'; set that to deepspeed, or leave it out"],
    ),
    "fields that DeepSpeed does not know": (
        _deepspeed('{"zero_optimisation": {}, "zero_optimization": {"reduce_buket_size": 5}}'),
        [
            "zero_optimisation in engine.deepspeed_config",
            "did you mean zero_optimization?",
            "zero_optimization.reduce_buket_size",
            "did you mean reduce_bucket_size?",
        ],
    ),
    "values that DeepSpeed cannot take": (
        _deepspeed('{"steps_per_print": "x", "zero_optimization": {"reduce_bucket_size": -5, "offload_optimizer": {"device": "disk"}}}'),
        [
            "steps_per_print is 'x'",
            "zero_optimization.reduce_bucket_size is -5",
            "greater than 0",
            "offload_optimizer.device is 'disk'",
            "input should be 'none', 'cpu'",
        ],
    ),
    "another precision of DeepSpeed's exchange": (
        _deepspeed('{"communication_data_type": "fp16"}'),
        ["communication_data_type in engine.deepspeed_config", "is nothing that it can set; leave it out"],
    ),
    "quantized weights": (
        _deepspeed('{"zero_optimization": {"zero_quantized_weights": true}}', "--engine.zero_stage", "3"),
        ["zero_optimization.zero_quantized_weights is set", "of which is not known that a run learns the same; leave it out"],
    ),
    "offloading that is not there": (
        _deepspeed('{"zero_optimization": {"offload_optimizer": {"device": "nvme"}, "offload_param": {"device": "cpu"}}}'),
        ["offload_optimizer.device is 'nvme'", "set it to cpu", "offload_param is set", "engine.zero_stage is 0; it needs stage 3"],
    ),
    "a key twice in a JSON": (_deepspeed('{"dump_state": true, "dump_state": false}'), ["the key 'dump_state' stands twice", "mend it"]),
    "fp16 under DeepSpeed": (
        _with("--engine.name", "deepspeed", "--precision.dtype", "fp16"),
        ["precision.dtype is 'fp16', but engine.name is 'deepspeed'", "set precision.dtype to bf16, or engine.name to ddp"],
    ),
    "another linear function for the whole process": (
        _deepspeed('{"zero_optimization": {"memory_efficient_linear": true}}', "--engine.zero_stage", "3"),
        ["zero_optimization.memory_efficient_linear is True in engine.deepspeed_config", "no forward derivative", "leave it out there"],
    ),
    "a formulation of what is not differentiated": (
        _with("--penalty.name", "approximated_r1", "--penalty.formulation", "double_backward"),
        ["penalty.formulation is 'double_backward', but penalty.name is 'approximated_r1'", "set penalty.name to r1"],
    ),
    "no such file of DeepSpeed's": (
        _with("--engine.name", "deepspeed", "--engine.deepspeed_config", "missing.json"),
        ["engine.deepspeed_config is 'missing.json', which cannot be read as a JSON object (No such file or directory)"],
    ),
    "a damaged file of DeepSpeed's": (_deepspeed("{"), ["engine.deepspeed_config is ", "cannot be read as a JSON object", "line 1"]),
    "a list for DeepSpeed": (_deepspeed("[]"), ["cannot be read as a JSON object (it holds a list)"]),
    "a number for DeepSpeed's ZeRO": (
        _deepspeed('{"zero_optimization": 2}'),
        ["cannot be read as a JSON object (its zero_optimization is 2)"],
    ),
    "another batch size for DeepSpeed": (
        _deepspeed('{"train_batch_size": 32, "gradient_accumulation_steps": 2, "train_micro_batch_size_per_gpu": 16}'),
        [
            "train_batch_size is 32 in engine.deepspeed_config",
            "but by train.batch_size it is 64; change one of them or leave it out there",
            "gradient_accumulation_steps is 2",
            "train_micro_batch_size_per_gpu is 16",
        ],
    ),
    "another stage for DeepSpeed": (
        _deepspeed('{"zero_optimization": {"stage": 2}}', "--engine.zero_stage", "1"),
        ["zero_optimization.stage is 2 in engine.deepspeed_config", "by engine.zero_stage it is 1"],
    ),
    "DeepSpeed's default clipping": (
        _deepspeed('{"gradient_clipping": 1.0}'),
        ["gradient_clipping is 1.0", "discriminator_optimizer.max_gradient_norm it is 0.0"],
    ),
    "an optimizer of DeepSpeed's": (
        _deepspeed('{"optimizer": {"type": "Adam"}, "fp16": {"enabled": true}}'),
        [
            "optimizer is set in engine.deepspeed_config",
            "it comes from generator_optimizer",
            "fp16 is enabled",
            "are fp32 under every engine",
        ],
    ),
    "a critic without a Lipschitz penalty": (
        _with("--loss.name", "wasserstein"),
        ["loss.name is 'wasserstein'", "set penalty.name to wgan_gp"],
    ),
    "a size the model cannot make": (
        _with("--data.resolution", "40"),
        ["images are 40 pixels wide", "set data.resolution to 32 or model.name to mlp"],
    ),
    "a size that sngan cannot make": (
        _with("--model.name", "sngan", "--data.resolution", "28"),
        ["model.name is 'sngan'", "images are 28 pixels wide", "set data.resolution to 32 or 64, or model.name to dcgan or mlp"],
    ),
    "no such norm": (
        _with("--model.discriminator_norm", "layer"),
        ["model.discriminator_norm is 'layer'", "'none', 'batch' or 'spectral'"],
    ),
    "a width of no channels": (
        _with("--model.name", "sngan", "--model.generator_channels", "0"),
        ["model.generator_channels is '0'", "greater than or equal to 1"],
    ),
    "settings, data and directory at once": (
        _with("--train.batch_size", "3001", "--engine.accumulation_steps", "2", "--data.resolution", "40", "--run.dir", "/dev/null/x"),
        ["does not divide", "holds only 1797 samples", "40 pixels", "run.dir is '/dev/null/x'"],
    ),
    "data that is not there": (
        _with("--data.url", "/nowhere/x-{000..003}.tar"),
        ["data.url is '/nowhere/x-{000..003}.tar'", "matches nothing"],
    ),
    "a directory without shards": (lambda directory: ["--data.url", str(directory)], ["data.url is", "holds no *.tar file"]),
    "an address of another kind": (_with("--data.url", "ftp://host/x.tar"), ["data.url begins with 'ftp:'", "https://, s3:// or gs://"]),
    "a command where samples are read by their places": (
        _with("--data.url", "pipe:cat x.tar"),
        ["data.url is 'pipe:cat x.tar', a command, but data.mode is 'indexed'", "set data.mode to stream"],
    ),
    "no such mode": (_with("--data.mode", "streamed"), ["data.mode is 'streamed'", "'indexed' or 'stream'"]),
    "a stream of unknown size and labels": (
        _stream("--data.url", "pipe:cat x.tar", "--model.conditional"),
        [
            "data.resolution is null, but data.mode is 'stream'",
            "set data.resolution to",
            "data.num_classes is null, but data.mode is 'stream'",
            "set data.num_classes to one more than the highest label",
        ],
    ),
    "what a stream cannot follow": (
        _stream("--data.url", "pipe:cat x.tar", "--data.shuffle_window", "8", "--data.balance_classes", "--data.fetch", "samples"),
        [
            "data.shuffle_window is 8, which is for data.mode 'indexed', but data.mode is 'stream'; leave data.shuffle_window out",
            "data.balance_classes is True, which is for data.mode 'indexed'",
            "data.fetch is 'samples', which is for data.mode 'indexed'",
        ],
    ),
    "a stream of a size the model cannot make": (
        _stream("--data.url", "pipe:cat x.tar", "--data.resolution", "40"),
        ["images are 40 pixels wide", "set data.resolution to 32"],
    ),
    "a stream from an object store": (
        _stream("--data.url", "s3://bucket/{0..9}.tar", "--data.resolution", "32"),
        ["data.url is 's3://bucket/{0..9}.tar', but what is streamed is a path, http(s)://, or 'pipe:'", "write a command that prints"],
    ),
    "a stream that is not there": (
        _stream("--data.url", "/nowhere/{0..9}.tar.gz", "--data.resolution", "32"),
        ["data.url is '/nowhere/{0..9}.tar.gz', which matches nothing", "set data.url to where the shards are"],
    ),
    "a stream of braces that do not pair": (
        _stream("--data.url", "pipe:cat {0..9.tar", "--data.resolution", "32"),
        ["data.url is 'pipe:cat {0..9.tar', whose braces do not pair"],
    ),
    "a run that becomes a stream": (
        _becomes_a_stream,
        ["data.mode is 'stream', but the run in", "has 'indexed'", "data.resolution is 32", "--run.overwrite"],
    ),
    "not a tar": (_not_a_tar, ["x.tar is not a readable tar"]),
    "no image": (_with_shard({"0.txt": b"a", "1.json": b"{}"}), ["x.tar holds no image"]),
    "no label": (
        _with_shard(_squares(64, 32) | {"9999.png": _png(32, 32)}, "--model.conditional"),
        ["model.conditional is true, but the sample '9999' of", "set model.conditional to false"],
    ),
    "no label to balance by": (
        _with_shard(_squares(64, 32, labelled=False), "--data.balance_classes"),
        [
            "data.balance_classes is true, but the sample '0000' of",
            "has no label (.cls); add the label or set data.balance_classes to false",
        ],
    ),
    "a label beyond the classes": (
        _with_shard(_squares(64, 32) | {"0009.cls": b"7"}, "--model.conditional", "--data.num_classes", "7"),
        ["data.num_classes is 7, but the sample '0009' of", "x.tar has the label 7", "set data.num_classes to 8"],
    ),
    "images of two channels": (_with("--data.channels", "2"), ["data.channels is 2", "1 or 3"]),
    "mixed sizes": (
        _with_shard(_squares(64, 32) | {"9999.png": _png(48, 48)}),
        ["data.resolution is null", "32 to 48 pixels", "set data.resolution"],
    ),
    "not square": (_with_shard({"0000.png": _png(32, 48)}), ["data.resolution is null", "set data.resolution"]),
    "fewer samples than a batch": (
        _with_shard(_squares(63, 32)),
        ["train.batch_size is 64", "holds only 63 samples", "set train.batch_size"],
    ),
    "another configuration": (
        _another_configuration,
        [
            *("train.batch_size is 32, but the run in", "has 64", "model.latent_size is 7", "has 100", "--run.overwrite"),
            *("data.augment.flip is True, but the run in", "data.balance_classes is True, but the run in", "has False; set it back"),
        ],
    ),
    "other data than the run's": (_changed_data, ["whose content has changed since the run in"]),
    "a run directory below a file": (_a_file_in_the_way, ["run.dir is", "is a file; set run.dir to a directory"]),
    "overwriting what is no run": (_not_a_run, ["run.overwrite is true", "holds something that is not a run"]),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_refused_with_a_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare, expected = BAD_INPUTS[name]
    arguments = prepare(tmp_path)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(World, "process_group", lambda *_: pytest.fail("a process group was started"))
        assert train.main(arguments) == 2
    stderr = capsys.readouterr().err
    assert all(part in stderr for part in expected), stderr
    lines = stderr.strip().splitlines()
    assert all(line.startswith("distgan.train: error: ") and line.endswith((".", "?")) for line in lines), stderr
    assert not (tmp_path / "runs").exists(), "nothing is written before the refusal"


def test_a_directory_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops: what access() says is what counts."""
    real_access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and real_access(path, mode))
    assert train.main(["--run.dir", str(tmp_path / "run")]) == 2
    assert f"{tmp_path} cannot be written; set run.dir" in capsys.readouterr().err


def test_a_server_without_curl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = ["--data.mode", "stream", "--data.resolution", "32", "--data.url", "http://127.0.0.1/x.tar"]
    assert train.main([*arguments, "--run.dir", str(tmp_path / "run")]) == 2
    assert "data.url is 'http://127.0.0.1/x.tar', which is read by curl, but there is no curl on the PATH" in capsys.readouterr().err


def test_a_run_that_another_process_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from distgan import run_directory
    from distgan.files import locked

    monkeypatch.setattr(run_directory, "LOCK_SECONDS", 0.2)
    command = ["--run.dir", str(tmp_path / "run"), "--metrics.port", "0", "--model.name", "mlp", "--train.total_kimg", "0.064"]
    assert train.main(command) == 0
    for more in ([], ["--run.overwrite"]):
        capsys.readouterr()
        with locked(tmp_path / "run" / ".lock"):
            assert train.main([*command, *more]) == 2
        assert "which another run holds" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_timeout_of_the_run_itself_is_not_taken_for_a_held_directory(tmp_path: Path) -> None:
    from distgan.cli import parse_command
    from distgan.run_directory import RunDirectory

    config = parse_command(["--run.dir", str(tmp_path / "run")]).config
    with pytest.raises(TimeoutError, match="a rank did not answer"), RunDirectory(tmp_path / "run").held(config):
        raise TimeoutError("a rank did not answer")


@pytest.mark.parametrize(("variable", "value"), [("RANK", "one"), ("WORLD_SIZE", "-1")])
def test_a_broken_environment(variable: str, value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert train.main([]) == 2
    assert f"environment variable {variable} is {value!r}" in capsys.readouterr().err


def test_under_torchrun_one_rank_speaks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "distgan.train"]
    arguments = ["--run.dir", str(tmp_path / "run"), "--train.batch_size", "63", "--loss.name", "wasserstein"]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, "torchrun turns every failure into 1"
    sentences = [line for line in result.stderr.splitlines() if "distgan.train: error:" in line]
    assert len(sentences) == 2
    assert "63, which does not divide by 2 ranks" in sentences[0]
    assert "exitcode  : 2" in result.stderr
    assert "distgan/train.py" not in result.stderr, "the traceback is torchrun's own, of none of our lines"
