"""Compiles csrc/ with ninja: the CPU operators, the CUDA operators where nvcc is there, and for the tests the emulated ones.

setup.py calls `build`; the tests call `build_emulator`. Needs torch, ninja and pybind11 in the environment that is built for.
"""

import fcntl
import io
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ninja
import pybind11
import torch

SOURCES = Path(__file__).resolve().parent
DEFAULT_ARCHITECTURES = "8.0 8.6 9.0 10.0 12.0"  # those that nvcc knows, and PTX for whatever comes after them
# The oldest torch whose stable ABI these sources keep to: a build serves this and every later one.
OLDEST_TORCH = (2, 11)
TORCH_TARGET = "0x020b000000000000"
EXTENSION = sysconfig.get_config_var("EXT_SUFFIX")


class BuildError(Exception):
    """One sentence, or a compiler's own words."""


@dataclass(frozen=True)
class Compilers:
    """What was found; None: not there."""

    cxx: str | None
    nvcc: str | None

    @classmethod
    def find(cls) -> "Compilers":
        """`CXX` and `CUDA_HOME` choose, else what is on PATH or where CUDA's installers put it."""
        cxx, cuda_home = os.environ.get("CXX"), os.environ.get("CUDA_HOME")
        if cxx and not shutil.which(cxx):
            more = " (one program without arguments: put a launcher such as ccache on PATH under the compiler's name)" if " " in cxx else ""
            raise BuildError(f"CXX is {cxx!r}, which is no program; name a C++ compiler{more}, or unset CXX to have one looked for.")
        return cls(
            cxx=_first_of(*([cxx] if cxx else ["g++", "c++", "clang++"])),
            nvcc=_first_of(*([f"{cuda_home}/bin/nvcc"] if cuda_home else ["nvcc", "/usr/local/cuda/bin/nvcc"])),
        )


def _first_of(*programs: str) -> str | None:
    return next((path for path in map(shutil.which, programs) if path), None)


def architectures(nvcc: str) -> list[str]:
    """TORCH_CUDA_ARCH_LIST, or the default as far as this nvcc goes: ['8.0', '12.0+PTX']."""
    known = _run(nvcc, "--list-gpu-arch").split()
    wanted = [word for word in re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or "") if word]
    if not wanted:
        wanted = [architecture for architecture in DEFAULT_ARCHITECTURES.split() if _virtual(architecture) in known]
        return [*wanted[:-1], f"{wanted[-1]}+PTX"]
    for architecture in wanted:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", architecture):
            raise BuildError(f"TORCH_CUDA_ARCH_LIST has {architecture!r}; write it as in '{DEFAULT_ARCHITECTURES}+PTX'.")
        if _virtual(architecture).rstrip("af") not in known:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST has {architecture}, which this nvcc does not know ({_version(nvcc)}).")
    return wanted


def _virtual(architecture: str) -> str:
    return "compute_" + architecture.removesuffix("+PTX").replace(".", "")


def _gencode(wanted: list[str]) -> list[str]:
    """Machine code for each architecture, and PTX where it is asked for.

    Most of the time goes into reading torch's headers, once for each virtual architecture; so the lowest one serves all, which
    halves it. The kernels use nothing that a newer one has. Those named with a letter (9.0a) are compiled for themselves.
    """
    groups: dict[str, list[str]] = {}
    plain = [architecture for architecture in wanted if _virtual(architecture)[-1].isdigit()]
    lowest = min(plain, key=lambda architecture: float(architecture.removesuffix("+PTX")), default="")
    for architecture in wanted:
        virtual = _virtual(lowest if architecture in plain else architecture)
        codes = groups.setdefault(virtual, [])
        codes.append(_virtual(architecture).replace("compute", "sm"))
        if architecture.endswith("+PTX"):
            codes.append(virtual)
    return [f"-gencode=arch={virtual},code=[{','.join(dict.fromkeys(codes))}]" for virtual, codes in groups.items()]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _version(compiler: str) -> str:
    try:
        lines = _run(compiler, "--version").splitlines() or [compiler]
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{compiler} does not say its version ({error}); name another compiler in CXX or CUDA_HOME.") from None
    return next((line.replace("Cuda compilation tools", "nvcc") for line in lines if "release" in line), lines[0])


class _Ninja:
    """Collects rules and targets, writes build.ninja, runs it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._text = folder, io.StringIO()
        self._writer = ninja.ninja_syntax.Writer(self._text, width=1000)
        self._writer.rule("compile", "$compiler -MMD -MF $out.d $flags -c $in -o $out", depfile="$out.d", deps="gcc", description="$out")
        # nvcc's report of registers and spills goes beside the object, where a test reads it.
        self._writer.rule(
            "nvcc", "$compiler -MMD -MF $out.d $flags -c $in -o $out > $out.txt 2>&1 || (cat $out.txt; exit 1)",
            depfile="$out.d", deps="gcc", description="$out",
        )  # fmt: skip
        self._writer.rule("link", "$compiler -shared $in -o $out $flags", description="$out")

    def objects(self, output: Path, sources: Sequence[Path], compiler: str, flags: list[str], rule: str = "compile") -> list[str]:
        """Compile what `output` is to be linked of."""
        variables = {"compiler": shlex.quote(compiler), "flags": shlex.join(flags)}
        targets = [str(self._folder / output.name / f"{source.stem}.o") for source in sources]
        for source, target in zip(sources, targets, strict=True):
            self._writer.build(target, rule, str(source), variables=variables)
        return targets

    def link(self, output: Path, objects: list[str], compiler: str, flags: list[str]) -> None:
        self._writer.build(str(output), "link", objects, variables={"compiler": shlex.quote(compiler), "flags": shlex.join(flags)})

    def run(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two builds in one folder; the kernel lets go however a process ends
            (self._folder / "build.ninja").write_text(self._text.getvalue())
            command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(self._folder)]
            finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if finished.returncode:
            raise BuildError(f"The operators did not compile:\n{finished.stdout}")
        print(finished.stdout, end="")  # a compiler's warnings


def _common_flags(*compilers: str) -> list[str]:
    """What every source is compiled with that includes torch's headers."""
    if torch.torch_version.TorchVersion(torch.__version__) < OLDEST_TORCH:
        raise BuildError(f"torch {torch.__version__} is installed, but the operators need {'.'.join(map(str, OLDEST_TORCH))} or newer.")
    include = Path(torch.__file__).parent / "include"
    # Ninja sees when files of the project change, but not when a compiler or torch is replaced; this number changes with them.
    built_with = zlib.crc32("".join([torch.__version__, *map(_version, compilers)]).encode())
    definitions = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", f"-DDISTGAN_BUILT_WITH={built_with}"]
    return ["-std=c++20", "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include"), *definitions]


def _torch_link() -> list[str]:
    return [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]


# No contraction: a fused multiply-add on one machine and not on another would give other bits.
_CXX_FLAGS = ["-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi", "-ffp-contract=off", "-fno-math-errno"]
# Nothing there is worth more of the time that optimising pybind11 takes.
_PYBIND11_FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden"),
    *("-isystem", sysconfig.get_path("include"), "-isystem", pybind11.get_include()),
]


def build(output: Path, folder: Path) -> list[str]:
    """Compile into `output` (the package's distgan/ops), with `folder` for what lies between.

    Returns:
        A sentence for each part that could not be built because its compiler is missing.
    """
    compilers = Compilers.find()
    cxx, nvcc = compilers.cxx, compilers.nvcc
    cpu, cuda, info = output / "libdistgan_cpu.so", output / "libdistgan_cuda.so", output / f"build_info{EXTENSION}"
    if nvcc is None or cxx is None:
        cuda.unlink(missing_ok=True)  # of an earlier build, no longer what these sources say
    if cxx is None:
        cpu.unlink(missing_ok=True)
        info.unlink(missing_ok=True)
        return ["no C++ compiler was found (CXX, g++, c++, clang++): the operators run as plain PyTorch"]
    wanted = architectures(nvcc) if nvcc else []
    recipe = _Ninja(folder)
    if nvcc:
        flags = [*_common_flags(cxx, nvcc), f"-ccbin={cxx}", "-O3", "-DUSE_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xptxas=-v"]
        flags += _gencode(wanted)
        objects = recipe.objects(cuda, sorted(SOURCES.glob("*/*_cuda.cu")), nvcc, flags, rule="nvcc")
        # torch's CUDA library may be absent here: its symbols are found when the operators are loaded beside it.
        recipe.link(cuda, objects, nvcc, ["--no-device-link", *_torch_link()])
    sources = [SOURCES / "registration.cpp", *sorted(SOURCES.glob("*/*_cpu.cpp"))]
    recipe.link(cpu, recipe.objects(cpu, sources, cxx, [*_common_flags(cxx), *_CXX_FLAGS]), cxx, _torch_link())
    facts = {
        "COMPILER": _version(cxx),
        "TORCH": torch.__version__,
        "NVCC": _version(nvcc) if nvcc else "",
        "ARCHITECTURES": " ".join(wanted),
    }
    flags = [*_PYBIND11_FLAGS, *(f'-DDISTGAN_{name}="{value}"' for name, value in facts.items())]
    recipe.link(info, recipe.objects(info, [SOURCES / "build_info.cpp"], cxx, flags), cxx, [])
    recipe.run()
    return [] if nvcc else ["no nvcc was found (CUDA_HOME, PATH): on GPUs the operators run as plain PyTorch"]


def build_emulator(output: Path, folder: Path, *, sanitize: bool, kernels: Sequence[Path] = ()) -> Path:
    """Compile the CUDA operators, and `kernels` beside them, for the emulator.

    Returns:
        The path of the Python module `distgan_emulator`, in `output`.
    """
    cxx = Compilers.find().cxx
    if cxx is None:
        raise BuildError("The emulator needs a C++ compiler.")
    # A tensor without elements is at null, and a memset of nothing there is no fault.
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize=nonnull-attribute", "-fno-sanitize-recover=all"] if sanitize else []
    quick = ["-O1", "-g1", "-Wno-unknown-pragmas"]  # nvcc's pragmas
    flags = [*_common_flags(cxx), *_CXX_FLAGS, *quick, *sanitizers, "-DDISTGAN_EMULATOR", f"-I{SOURCES}", "-x", "c++"]
    sources = [SOURCES / "registration.cpp", SOURCES / "emulator/emulator.cpp", *sorted(SOURCES.glob("*/*_cuda.cu")), *kernels]
    module = output / f"distgan_emulator{EXTENSION}"
    recipe = _Ninja(folder)
    objects = recipe.objects(module, sources, cxx, flags)
    objects += recipe.objects(module, [SOURCES / "emulator/driver.cpp"], cxx, _PYBIND11_FLAGS)
    recipe.link(module, objects, cxx, [*sanitizers, *_torch_link()])
    recipe.run()
    return module
