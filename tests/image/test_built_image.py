"""The image as the Dockerfile makes it, and as Kubernetes runs it: hardened containers, without a network.

make test-image
"""

import importlib.metadata
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distgan import checkpoint
from tests.image.builder import PROJECT, Builder, Image, argument, base_image, builder, run
from tests.image.container import GUARD_SECONDS, started
from tests.processes import until
from tests.tools import missing

LACKING = missing("buildah", "mmdebstrap", "runc")
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=f"an image needs {LACKING}"),
    pytest.mark.skipif("DISTGAN_REQUIRE_TOOLS" not in os.environ and os.geteuid() != 0, reason="an image needs root"),
    pytest.mark.timeout(3600),  # a guard for the build, which belongs to the first test
]

# The Python and the libc of the image that Debian stands for.
REAL_BASE = {"ubuntu:24.04": ("3.12", "x86_64-manylinux_2_39")}
BUILD_ARGUMENTS = {"VERSION": "1.2.3", "REVISION": "0123456789abcdef"}


@dataclass(frozen=True)
class Built:
    """The names of what was built, for `Builder.image`."""

    builder: Builder
    image: str
    build_stage: str


@pytest.fixture(scope="module")
def built() -> Iterator[Built]:
    with tempfile.TemporaryDirectory(prefix="distgan-image-") as directory, builder(Path(directory)) as images:
        images.make_base()
        build_stage = images.build("--target", "build")
        options = [option for name, value in BUILD_ARGUMENTS.items() for option in ("--build-arg", f"{name}={value}")]
        found = Built(images, images.build(*options), build_stage)
        layers = images.image(found.image).layers
        for made_by, num_bytes in layers:
            print(f"{num_bytes / 2**20:6.1f} MiB  {made_by.removeprefix('/bin/sh -c ')[:120]}")
        print(f"{sum(size for _, size in layers) / 2**20:6.1f} MiB  in all, not compressed")
        yield found


@pytest.fixture
def image(built: Built) -> Image:
    """With a file system of its own, as every container has one."""
    return built.builder.image(built.image)


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the volumes lie: the containers' user has to get there, who may not enter pytest's own directories."""
    with tempfile.TemporaryDirectory(prefix="distgan-container-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def output(image: Image, place: Path, command: list[str]) -> str:
    """What a command prints that succeeds in a container."""
    with started(image, place, command, entrypoint=[]) as container:
        code = container.wait()
        assert code == 0, container.output
        return container.output


def volume(image: Image, path: Path) -> Path:
    """A folder in which the image's user may write, and nobody else."""
    path.mkdir(mode=0o700)
    os.chown(path, *(int(number) for number in image.config["User"].split(":")))
    return path


def test_the_default_command_explains_itself(image: Image, place: Path) -> None:
    with started(image, place) as container:
        assert container.wait() == 0, container.output
        assert "usage: distgan.launch worker" in container.output


def test_labels(image: Image) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in image.config["Labels"].items() if name.startswith(prefix)}
    assert {"title", "description", "licenses", "version", "revision"} <= set(labels)
    assert all(labels.values())
    assert labels["licenses"] == tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["license"]
    assert (labels["version"], labels["revision"]) == tuple(BUILD_ARGUMENTS.values())


def test_the_operators_are_compiled(built: Built, image: Image, place: Path) -> None:
    """By the image's own compilers: what this machine has built is not sent to them."""
    told = output(image, place, ["python", "-m", "distgan.ops"])
    assert "Operators on cpu: compiled." in told
    assert f"for architectures {argument('CUDA_ARCHITECTURES').replace(';', ' ')}." in told
    (toolkit,) = (pin.version for pin in pins()["cuda-toolkit"].specifier)
    assert f"release {'.'.join(toolkit.split('.')[:2])}," in told
    (cuda,) = image.root.glob("opt/distgan/lib/python3*/site-packages/distgan/ops/libdistgan_cuda.so")
    assert ".nv_fatbin" in run("readelf", "--wide", "--sections", str(cuda))
    assert list((PROJECT / "distgan").rglob("*.so"))
    assert not list((built.builder.image(built.build_stage).root / "src" / "distgan").rglob("*.so"))


@pytest.mark.parametrize("engine", [[], ["--engine.name", "deepspeed", "--engine.zero_stage", "1"]], ids=["ddp", "deepspeed"])
def test_it_trains(image: Image, place: Path, engine: list[str]) -> None:
    runs, cache = volume(image, place / "runs"), volume(image, place / "cache")
    arguments = ["worker", "--ranks-per-node", "2", "--", "--config", "/opt/distgan/recipes/digits-dcgan.yaml", "--run.dir", "/runs/run"]
    environment = {"XDG_CACHE_HOME": "/cache", "OMP_NUM_THREADS": "1"}
    volumes = {"/runs": runs, "/cache": cache}
    with started(image, place, [*arguments, "--train.total_kimg", "0.32", *engine], environment=environment, volumes=volumes) as container:
        assert container.wait() == 0, container.output
    assert checkpoint.steps(runs / "run" / "checkpoints") == [5]


def test_it_is_healthy_while_it_trains_and_saves_when_told_to_stop(image: Image, place: Path) -> None:
    runs, cache = volume(image, place / "runs"), volume(image, place / "cache")
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    arguments = ["worker", "--ranks-per-node", "1", "--", "--run.dir", "/runs/run"]
    environment = {"XDG_CACHE_HOME": "/cache", "OMP_NUM_THREADS": "1"}
    with started(image, place, arguments, environment=environment, volumes={"/runs": runs, "/cache": cache}) as container:
        until(lambda: not container.is_running or container.execute(check) == 0, "never healthy", GUARD_SECONDS)
        assert container.is_running, container.output
        container.kill("TERM")
        assert container.wait() == 75, container.output
    assert checkpoint.steps(runs / "run" / "checkpoints"), "nothing was saved"


def test_it_is_not_healthy_when_nothing_trains(image: Image, place: Path) -> None:
    _, *check = image.config["Healthcheck"]["Test"]
    with started(image, place, ["sleep", "300"], entrypoint=[]) as container:
        until(lambda: container.execute(["true"]) == 0, "it does not start", GUARD_SECONDS)
        assert container.execute(check) == 7  # curl's "failed to connect to host"


def test_torch_compile_finds_a_compiler(image: Image, place: Path) -> None:
    program = """
import pathlib, torch
compiled = torch.compile(lambda x: torch.sin(x) * x + 1, fullgraph=True)
x = torch.linspace(-3, 3, 1000)
torch.testing.assert_close(compiled(x), torch.sin(x) * x + 1)
print(len(list(pathlib.Path("/tmp").rglob("*.so"))), "libraries")
"""
    told = output(image, place, ["python", "-c", program])
    assert int(re.findall(r"(\d+) libraries", told)[0]) > 0, told


def test_streams_have_their_curl(image: Image, place: Path) -> None:
    assert re.search(r"^Protocols:.* https ", output(image, place, ["curl", "--version"]), re.MULTILINE)
    assert (image.root / "etc/ssl/certs/ca-certificates.crt").stat().st_size > 0


def test_its_user_can_change_nothing(image: Image) -> None:
    """Even where the root is not read-only."""
    changeable = []
    for folder, folders, files in os.walk(image.root):
        for path in (Path(folder) / name for name in (*folders, *files)):
            status = path.lstat()
            is_anybodys = status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX
            is_own = f"{status.st_uid}:{status.st_gid}" == image.config["User"]
            if (is_anybodys or is_own) and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                changeable.append(str(path.relative_to(image.root)))
    assert changeable == []


def privileged(image: Image) -> set[str]:
    """The programs that run as somebody else than who starts them."""
    found = run("find", str(image.root), "-xdev", "-type", "f", "-perm", "/6000", "-printf", "%P\n")
    return set(found.splitlines())


def test_it_adds_no_program_with_privileges(built: Built, image: Image) -> None:
    of_base = privileged(built.builder.image(base_image()))
    assert of_base  # or the search is wrong
    assert privileged(image) <= of_base


def test_nothing_of_the_build_is_left(image: Image) -> None:
    root = image.root
    for leftover in ("src", "wheels", "install", "usr/local/cuda", "usr/bin/cmake", "usr/bin/make", "usr/bin/clang"):
        assert not (root / leftover).exists(), leftover
    for pattern in (
        *("var/lib/apt/lists/*_Packages*", "var/cache/apt/*.bin", "var/cache/apt/archives/*.deb", "root/.cache/*", "tmp/*"),
        *("opt/distgan/lib/python3*/site-packages/pybind11", "opt/distgan/lib/python3*/site-packages/nvidia/*/bin/nvcc"),
    ):
        assert not [path for path in root.glob(pattern) if path.stat().st_size], pattern


def test_a_new_version_is_a_small_layer(image: Image) -> None:
    """What comes before it does not change with it, and is not fetched again."""
    made_by, num_bytes = image.layers[-1]
    assert re.search(r"COPY .* in /opt/distgan *$", made_by), made_by
    assert num_bytes < 32 * 2**20


def pins() -> dict[str, Requirement]:
    """Of constraints.txt: {name: torch==2.13.0}."""
    lines = (line.strip() for line in (PROJECT / "constraints.txt").read_text().splitlines())
    return {canonicalize_name(pin.name): pin for pin in (Requirement(line) for line in lines if line and not line.startswith("#"))}


def not_pinned(packages: dict[str, str]) -> list[str]:
    """Those of {name: version} that constraints.txt does not name at this version."""
    pinned = pins()
    found = {canonicalize_name(name): version for name, version in packages.items()}
    return [f"{name} {version}" for name, version in found.items() if name not in pinned or version not in pinned[name].specifier]


@pytest.mark.parametrize("stage", ["image", "build_stage"])
def test_every_package_is_of_the_constraints(built: Built, stage: str) -> None:
    python = ["python", "-m", "pip", "--no-cache-dir"]
    image = built.builder.image(getattr(built, stage))
    listed = json.loads(built.builder.execute(image, *python, "list", "--format", "json"))
    packages = {entry["name"]: entry["version"] for entry in listed if entry["name"] != "distgan"}
    assert "torch" in packages
    assert not_pinned(packages) == []
    built.builder.execute(image, *python, "check")


def test_the_packages_of_the_real_base_are_of_the_constraints(tmp_path: Path) -> None:
    """What stands in has another Python and no CUDA: here is what Ubuntu's gets. All of it but DeepSpeed comes compiled."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    deepspeed = [line for line in importlib.metadata.requires("deepspeed") or [] if "extra ==" not in line]
    wanted = ["pip", "setuptools", "ninja", "pybind11", "cuda-toolkit[cccl,nvcc]", *project["dependencies"], *extras["s3"], *deepspeed]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--target", str(tmp_path / "uv"), "--constraint", str(PROJECT / "constraints.txt"), "uv")
    command = [str(tmp_path / "uv" / "bin" / "uv"), "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--only-binary", ":all:"]
    python, platform = REAL_BASE[base_image()]
    command += ["--python-version", python, "--python-platform", platform, "--constraint", str(PROJECT / "constraints.txt"), "-"]
    done = subprocess.run(command, input="\n".join(wanted), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = dict(line.split("==") for line in done.stdout.splitlines())
    assert {"torch", "triton", "nvidia-nccl-cu13"} <= set(packages)
    assert not_pinned(packages) == []


AGAIN = """
find . -path ./build -prune -o -exec touch -d '2001-02-03 04:05:06' {} +
rm -r build/lib* build/bdist* *.egg-info
rm build/ops/libdistgan_cpu.so/ema_update_cpu.o build/ops/libdistgan_cuda.so/ema_update_cuda.o
pip wheel --quiet --no-build-isolation --no-deps --no-index --wheel-dir /again .
ls build/ops/libdistgan_cpu.so/ema_update_cpu.o build/ops/libdistgan_cuda.so/ema_update_cuda.o
cmp /wheels/*.whl /again/*.whl
"""


def test_the_same_sources_give_the_same_wheel(built: Built) -> None:
    """Checked out at another time. One operator is compiled again, for the CPU and for CUDA: all of them take minutes."""
    environment = {"TORCH_CUDA_ARCH_LIST": argument("CUDA_ARCHITECTURES"), "SOURCE_DATE_EPOCH": argument("SOURCE_DATE_EPOCH")}
    built.builder.execute(built.builder.image(built.build_stage), "sh", "-euc", AGAIN, environment=environment)
