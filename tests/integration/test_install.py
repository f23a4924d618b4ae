"""pip and a copy of the checkout: with compilers, without any, and without what the build needs."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import ninja
import pytest
import setuptools

CHECKOUT = Path(__file__).parents[2]
SITE_PACKAGES = Path(setuptools.__file__).parents[1]
PIP = ["-m", "pip", "install", "--no-index", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, copy)
    for name in ("csrc", "distgan", "k8s", "launch"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy


def make_environment(folder: Path, *packages: str) -> str:
    """A virtual environment in which only these files of the present site-packages can be imported; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (target,) = folder.glob("lib/python*/site-packages")
    for package in packages:
        for path in SITE_PACKAGES.glob(package):
            (target / path.name).symlink_to(path)
    return str(folder / "bin" / "python")


def run(*command: str, directory: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in ("CXX", "CUDA_HOME", "PYTHONPATH")}
    return subprocess.run(
        command,
        cwd=directory,
        env=inherited | {"TORCH_CUDA_ARCH_LIST": "9.0"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )


def libraries(package: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (package / "distgan" / "ops").glob("*.so")}


def expected_libraries() -> set[str]:
    with_cuda = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return {"build_info", "libdistgan_cpu"} | ({"libdistgan_cuda"} if with_cuda else set())


def test_installs_with_compiled_operators(checkout: Path, tmp_path: Path) -> None:
    installed = run(sys.executable, *PIP, "--target", str(tmp_path), ".", directory=checkout)
    assert installed.returncode == 0, installed.stdout
    assert libraries(tmp_path) == expected_libraries()
    (wheel,) = tmp_path.glob("*.dist-info/WHEEL")
    assert "Root-Is-Purelib: false" in wheel.read_text()
    says = run(sys.executable, "-m", "distgan.ops", directory=tmp_path)
    assert "Operators on cpu: compiled." in says.stdout, says.stdout
    script = run(sys.executable, "-m", "distgan.launch", "slurm", "render", directory=tmp_path)
    assert script.stdout.startswith("#!/bin/bash"), script.stdout
    assert (tmp_path / "distgan" / "launch" / "shipped_files" / "k8s" / "base" / "job.yaml").is_file()


def test_installs_in_place(checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment")
    (target,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    (target / "present.pth").write_text(f"{SITE_PACKAGES}\n")
    (tmp_path / "environment" / "bin" / "ninja").symlink_to(Path(ninja.BIN_DIR) / "ninja")  # another ninja would compile all again
    installed = run(python, *PIP, "--ignore-installed", "-e", ".", directory=checkout)
    assert installed.returncode == 0, installed.stdout
    assert libraries(checkout) == expected_libraries()


def test_installs_without_a_compiler_and_says_so(checkout: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    paths = {"PATH": str(nothing), "CUDA_HOME": str(nothing)}
    installed = run(sys.executable, *PIP, "-v", "--target", str(tmp_path / "target"), ".", directory=checkout, **paths)
    assert installed.returncode == 0, installed.stdout
    assert "WARNING: no C++ compiler was found (CXX, g++, c++, clang++): the operators run as plain PyTorch." in installed.stdout
    assert libraries(tmp_path / "target") == set()
    says = run(sys.executable, "-m", "distgan.ops", directory=tmp_path / "target")
    assert "warning: operators on cpu: plain PyTorch, which is slower (not compiled; install a C++ compiler" in says.stdout, says.stdout


def test_without_torch_one_sentence_says_what_to_install(checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", "pip", "setuptools*", "_distutils_hack", "ninja*")
    for editable in ([], ["-e"]):
        refused = run(python, *PIP, *editable, ".", directory=checkout)
        assert refused.returncode != 0
        sentence = "distgan builds with the torch that it will run with, and torch, pybind11 cannot be imported here; run: "
        assert refused.stdout.count(sentence + "pip install torch ninja pybind11 setuptools && pip install --no-build-isolation .") == 1
        assert "Traceback" not in refused.stdout


def test_the_source_distribution_needs_no_torch_and_holds_the_sources(checkout: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", "setuptools*", "_distutils_hack")
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    built = run(python, "-c", build, directory=checkout)
    assert built.returncode == 0, built.stdout
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    sources = {str(path.relative_to(checkout)) for path in (checkout / "csrc").rglob("*.*") if "__pycache__" not in path.parts}
    assert sources <= names
    assert [name for name in names if name.endswith((".so", ".pyc"))] == []
