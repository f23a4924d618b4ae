"""What a benchmark ran on."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

import distgan


class Machine(BaseModel):
    """None stands for what could not be found out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str | None
    cores: int  # that this process may use
    threads: int  # that torch uses
    gpu: str | None
    cuda: str | None  # the version that torch was built for
    torch: str
    python: str
    cxx: str | None  # first line of the C++ compiler's --version
    nvcc: str | None
    commit: str | None  # None: distgan does not run from a git checkout
    uncommitted_changes: bool | None

    @classmethod
    def find(cls) -> "Machine":
        """Ask the machine, the compilers and git."""
        source = str(Path(distgan.__file__).parent)
        # Only a file that git tracks says that the checkout around it is distgan's and not, say, one that holds the environment.
        tracked = _output("git", "-C", source, "ls-files", "--error-unmatch", distgan.__file__) is not None
        changes = _output("git", "-C", source, "status", "--porcelain") if tracked else None
        nvcc = re.search(r"release ([\d.]+)", _output("nvcc", "--version") or "")
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            threads=torch.get_num_threads(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            cuda=torch.version.cuda,
            torch=torch.__version__,
            python=platform.python_version(),
            cxx=(_output(os.environ.get("CXX", "g++"), "--version") or "").partition("\n")[0] or None,
            nvcc=nvcc and nvcc.group(1),
            commit=_output("git", "-C", source, "rev-parse", "HEAD") if tracked else None,
            uncommitted_changes=None if changes is None else bool(changes),
        )

    def lines(self, device: str) -> list[str]:
        """For people."""
        where = [f"{self.cpu or 'unknown CPU'}, {self.cores} cores, {self.threads} threads"]
        if device == "cuda":
            where.append(f"{self.gpu}, CUDA {self.cuda}")
        compilers = [name for name in (self.cxx, self.nvcc and f"nvcc {self.nvcc}") if name]
        return [*where, ", ".join([f"torch {self.torch}", f"python {self.python}", *compilers])]


def _output(program: str, *arguments: str) -> str | None:
    """What a program prints; None if there is no such program or it fails."""
    path = shutil.which(program)
    if path is None:
        return None
    result = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _cpu_model() -> str | None:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return found and found.group(1)
