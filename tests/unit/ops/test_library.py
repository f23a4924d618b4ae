"""Which operators run on what is said, and why: by `python -m distgan.ops` and by the programs that use them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distgan.ops import library
from tests.unit.ops.implementations import CHECKOUT, CSRC, builder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package as it is without any compiled operators."""
    return Path(shutil.copytree(CHECKOUT / "distgan", tmp_path / "distgan", ignore=shutil.ignore_patterns("*.so", "__pycache__")))


def run(package: Path, *module_and_arguments: str) -> str:
    """What the copy's program prints."""
    finished = subprocess.run(
        [sys.executable, "-m", *module_and_arguments], cwd=package.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def rows(output: str) -> dict[str, list[str]]:
    """The table: operator -> what serves on the CPU and on CUDA."""
    lines = [re.split(r"\s{2,}", line) for line in output.partition("\n\n")[0].splitlines()]
    return {name: served for name, *served in lines}


def test_every_operator_of_the_registration_is_listed():
    names = re.findall(r'library\.def\(\s*"(\w+)\(', (CSRC / "registration.cpp").read_text())
    assert sorted(library.OPERATORS) == sorted(names)


def test_the_table_says_what_was_compiled_and_how(package):
    for path in (CHECKOUT / "distgan" / "ops").glob("*.so"):
        shutil.copy(path, package / "ops")
    output = run(package, "distgan.ops")
    assert rows(output).keys() == {"operator", *library.OPERATORS, "conv2d"}
    assert all(served[0] == "compiled" for name, served in rows(output).items() if name in library.OPERATORS), output
    assert rows(output)["conv2d"] == ["Python", "Python"]
    assert "Operators on cpu: compiled." in output
    assert re.search(r"Compiled by .+ for torch \d", output)
    if builder().Compilers.find().nvcc:
        assert re.search(r"Compiled for CUDA by .*release [\d.]+, .*for architectures [\d.]+", output)


def test_without_libraries_plain_pytorch_serves_and_that_is_said(package):
    output = run(package, "distgan.ops")
    assert {tuple(served) for name, served in rows(output).items() if name in library.OPERATORS} == {("plain PyTorch", "plain PyTorch")}
    warning = "warning: operators on cpu: plain PyTorch, which is slower (not compiled; install a C++ compiler such as g++ and install"
    assert warning in output
    assert "Nothing was compiled for this Python." in output
    run_dir = package.parent / "run"
    assert f"# {warning}" in run(package, "distgan.train", "--dry-run", "--run.dir", str(run_dir))
    short = ["--train.total_kimg", "0.064", "--metrics.port", "0", "--model.name", "mlp"]
    assert run(package, "distgan.train", "--run.dir", str(run_dir), *short).count(warning) == 1


SCRIPT = """
import torch
from distgan import ops

gradients = torch.ones(2, 3)
torch.compile(ops.gradient_penalty, fullgraph=True, backend="eager")(gradients, 1.0, 10.0)
ops.gradient_penalty(gradients.double(), 1.0, 10.0)
print("so far so quiet", flush=True)
for _ in range(2):
    ops.spectral_norm(torch.nn.Linear(2, 3))
    ops.gradient_penalty(gradients, 1.0, 10.0)
"""


def test_a_script_of_the_users_own_is_told_once_and_where(package):
    script = package.parent / "script.py"
    script.write_text(SCRIPT)
    finished = subprocess.run([sys.executable, script], cwd=package.parent, capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout == "so far so quiet\n"
    told = [line for line in finished.stderr.splitlines() if "PlainPyTorchWarning" in line]
    assert len(told) == 1, finished.stderr
    assert "script.py:10: PlainPyTorchWarning: operators on cpu: plain PyTorch, which is slower (not compiled; " in told[0]


def test_a_library_that_does_not_load_is_said_with_the_reason(package):
    (package / "ops" / "libdistgan_cpu.so").write_text("compiled for something else\n")
    output = run(package, "distgan.ops")
    assert re.search(r"plain PyTorch, which is slower \(libdistgan_cpu.so does not load \(.*\); install distgan again", output)
    assert {tuple(served) for name, served in rows(output).items() if name in library.OPERATORS} == {("plain PyTorch", "plain PyTorch")}


def test_a_library_without_some_of_the_operators_is_not_used(package):
    for path in (CHECKOUT / "distgan" / "ops").glob("*.so"):
        shutil.copy(path, package / "ops")
    source = package / "ops" / "library.py"
    source.write_text(source.read_text().replace("OPERATORS = (", 'OPERATORS = (\n    "not_there_yet",'))
    output = run(package, "distgan.ops")
    assert "operators on cpu: plain PyTorch, which is slower (libdistgan_cpu.so is of another version, without not_there_yet;" in output


def test_the_twins_serve_where_they_are_asked_to():
    assert library.is_compiled("cpu") == (library.why_not("cpu") is None)
    with library.reference_twins():
        assert not library.is_compiled("cpu")
    assert library.why_not("meta") == "there are none for meta"
