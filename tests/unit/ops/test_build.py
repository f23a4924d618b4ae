"""What csrc/build.py makes: kernels without spills for every architecture, libraries that any later torch can load."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.unit.ops.implementations import CHECKOUT, CSRC, builder

ARCHITECTURES = ["80", "86", "90", "100", "120"]
# Of the C functions that the CUDA library takes from torch, those that only libtorch_cuda.so has: a torch without CUDA lacks them.
IN_TORCH_CUDA = {"aoti_torch_get_current_cuda_stream"}
needs_nvcc = pytest.mark.skipif(builder().Compilers.find().nvcc is None, reason="no nvcc here")


def nvcc() -> str:
    return builder().Compilers.find().nvcc


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The libraries for the default architectures; what the package's own build compiled in build/ops is taken as it is."""
    output = tmp_path_factory.mktemp("libraries")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
        builder().build(output, CHECKOUT / "build" / "ops")
    return output


def reports() -> dict[str, str]:
    return {path.name: path.read_text() for path in (CHECKOUT / "build/ops/libdistgan_cuda.so").glob("*.txt")}


def kernels() -> set[str]:
    """How the name of each kernel of csrc/ begins once the compiler has put its namespaces before it."""
    names = set()
    for path in CSRC.glob("*/*.cuh"):
        namespace = "distgan"
        pattern = r"^namespace ([\w:]+) \{|^\s*__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\("
        for entered, kernel in re.findall(pattern, path.read_text(), flags=re.MULTILINE):
            namespace = entered or namespace
            if kernel:
                names.add("_ZN" + "".join(f"{len(part)}{part}" for part in [*namespace.split("::"), kernel]))
    return names


@needs_nvcc
def test_no_kernel_spills_on_any_architecture(built):
    pattern = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*Function properties for \1\n"
        r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    )
    found = [match for report in reports().values() for match in re.findall(pattern, report)]
    assert [match for match in found if match[2:] != ("0", "0", "0")] == []
    assert len(kernels()) >= 5
    for kernel in kernels():
        assert {architecture for name, architecture, *_ in found if name.startswith(kernel)} == set(ARCHITECTURES), kernel
    assert {name for name, *_ in found if not name.startswith(tuple(kernels()))} == set()


@needs_nvcc
def test_nvcc_warns_of_nothing(built):
    assert {name: report for name, report in reports().items() if "warning" in report} == {}


@needs_nvcc
def test_the_library_holds_code_for_every_architecture_and_ptx_for_others(built):
    section = built / "fatbin"
    subprocess.run(["objcopy", "-O", "binary", "--only-section=.nv_fatbin", built / "libdistgan_cuda.so", section], check=True)
    code = [(kind, architecture) for kind, architecture in fatbin_entries(section.read_bytes())]
    num_sources = len(list(CSRC.glob("*/*_cuda.cu")))
    assert set(code) == {*(("machine code", int(architecture)) for architecture in ARCHITECTURES), ("PTX", int(ARCHITECTURES[0]))}
    assert len(code) == num_sources * (len(ARCHITECTURES) + 1)


def fatbin_entries(section: bytes) -> list[tuple[str, int]]:
    """(kind, architecture) of all that a section of fat binaries holds.

    NVIDIA documents no format; this much of it has been the same for years, and anything else fails the test: a file's header is
    magic, version (16 bits), its own length (16) and the length of what follows (64), an entry's header kind (16), version (16), its
    own length (32), the length of what follows (64), and at byte 28 the architecture (32).
    """
    kinds, entries, position = {1: "PTX", 2: "machine code"}, [], 0
    while position < len(section):
        magic, _, header_bytes, num_bytes = struct.unpack_from("<IHHQ", section, position)
        assert magic == 0xBA55ED50
        position += header_bytes
        end = position + num_bytes
        while position < end:
            kind, _, header_bytes, num_bytes = struct.unpack_from("<HHIQ", section, position)
            (architecture,) = struct.unpack_from("<I", section, position + 28)
            entries.append((kinds[kind], architecture))
            position += header_bytes + num_bytes
        position += -position % 8
    return entries


def symbols(library: Path | str, *flags: str) -> dict[str, str]:
    """Dynamic symbols: name -> nm's letter."""
    lines = subprocess.run(["nm", "-D", *flags, library], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[-1].partition("@")[0]: line.split()[-2] for line in lines}


def needed_libraries(library: Path) -> dict[str, str]:
    """The libraries that this one names, and where this process, which has torch loaded, has each."""
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    loaded = set(re.findall(r"\s(/\S+)$", Path("/proc/self/maps").read_text(), flags=re.MULTILINE))
    names = re.findall(r"NEEDED.*\[(.+)\]", dynamic)  # of which a file's own name may add the rest of the version
    return {name: next(path for path in loaded if Path(path).name.startswith(name)) for name in names}


@pytest.mark.parametrize("device_type", ["cpu", pytest.param("cuda", marks=needs_nvcc)])
def test_the_library_takes_nothing_from_torch_but_its_stable_c_functions(built, device_type):
    library = built / f"libdistgan_{device_type}.so"
    wanted = {name for name, letter in symbols(library, "--undefined-only").items() if letter == "U"}
    libraries = needed_libraries(library)
    assert {"libtorch_cpu.so", "libc10.so"} <= libraries.keys()
    assert not any("cuda" in name for name in libraries), "CUDA's run time is linked in, so that any version of it can lie beside torch"
    found = {name: symbols(path, "--defined-only").keys() for name, path in libraries.items()}
    of_torch = {symbol for name in ("libtorch_cpu.so", "libc10.so") for symbol in wanted & found.pop(name)}
    elsewhere = wanted - of_torch - set().union(*found.values())
    assert elsewhere == (IN_TORCH_CUDA if device_type == "cuda" else set())
    of_cpp = {symbol for symbol in of_torch | elsewhere if not re.fullmatch(r"(aoti_torch|torch)_\w+", symbol)}
    assert of_cpp - set().union(*found.values()) == set()


@needs_nvcc
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ["8.0", "8.6", "9.0", "10.0", "12.0+PTX"]),
        ("", ["8.0", "8.6", "9.0", "10.0", "12.0+PTX"]),
        ("9.0", ["9.0"]),
        ("8.0;9.0a+PTX", ["8.0", "9.0a+PTX"]),
        (" 8.0, 8.6 ;", ["8.0", "8.6"]),
    ],
)
def test_reads_the_list_of_architectures(monkeypatch, value, expected):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if value is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    assert builder().architectures(nvcc()) == expected


@needs_nvcc
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("Hopper", r"TORCH_CUDA_ARCH_LIST has 'Hopper'; write it as in '8.0 8.6 9.0 10.0 12.0\+PTX'."),
        ("8.0 90", "has '90'; write it as in"),
        ("9.0+ptx", r"has '9.0\+ptx'; write"),
        ("3.5", r"has 3.5, which this nvcc does not know \(.*release"),
    ],
)
def test_a_bad_list_of_architectures_is_a_sentence(monkeypatch, tmp_path, value, sentence):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", value)
    with pytest.raises(builder().BuildError, match=sentence):
        builder().build(tmp_path, tmp_path / "objects")


def test_the_default_architectures_end_where_nvcc_does(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    older = tmp_path / "nvcc"
    older.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n'\n")
    older.chmod(0o755)
    assert builder().architectures(str(older)) == ["8.0", "8.6", "9.0+PTX"]


@pytest.fixture
def sources(monkeypatch, tmp_path):
    """Sources small enough to be compiled in a second, without CUDA."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "registration.cpp").write_text("int planted() { return 1; }\n")
    (folder / "build_info.cpp").write_text("const char* compiler() { return DISTGAN_COMPILER; }\n")
    monkeypatch.setattr(builder(), "SOURCES", folder)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    return folder


def test_a_second_build_compiles_only_what_has_changed(sources, tmp_path):
    def build() -> dict[str, int]:
        (sentence,) = builder().build(tmp_path / "ops", tmp_path / "objects")
        assert sentence.startswith("no nvcc was found (CUDA_HOME, PATH)")
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ops").iterdir()}

    before = build()
    assert before.keys() == {"libdistgan_cpu.so", f"build_info{builder().EXTENSION}"}
    assert build() == before
    (sources / "registration.cpp").write_text("int planted() { return 2; }\n")
    changed = {name for name, time in build().items() if time != before[name]}
    assert changed == {"libdistgan_cpu.so"}


def test_what_does_not_compile_fails_with_the_words_of_the_compiler(sources, tmp_path):
    (sources / "registration.cpp").write_text("#error planted\n")
    with pytest.raises(builder().BuildError, match=r"(?s)The operators did not compile:.*#error planted"):
        builder().build(tmp_path, tmp_path / "objects")


@pytest.mark.parametrize(
    ("cxx", "sentence"),
    [
        ("no-such-compiler", "CXX is 'no-such-compiler', which is no program; name a C"),
        ("ccache g++", r"CXX is 'ccache g\+\+', which is no program; name a C\+\+ compiler \(one program without arguments: "),
        ("false", "false does not say its version .*; name another compiler in CXX or CUDA_HOME."),
    ],
)
def test_a_compiler_that_is_none_is_a_sentence(cxx, sentence, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(builder().BuildError, match=sentence):
        builder().build(tmp_path, tmp_path / "objects")


def test_an_older_torch_is_a_sentence(monkeypatch, sources, tmp_path):
    monkeypatch.setattr("torch.__version__", "2.10.1")
    with pytest.raises(builder().BuildError, match=r"torch 2.10.1 is installed, but the operators need 2.11 or newer."):
        builder().build(tmp_path, tmp_path / "objects")


def test_without_a_compiler_nothing_of_an_earlier_build_remains(monkeypatch, tmp_path):
    for name in ("libdistgan_cpu.so", "libdistgan_cuda.so", f"build_info{builder().EXTENSION}"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (sentence,) = builder().build(tmp_path, tmp_path / "objects")
    assert sentence.startswith("no C++ compiler was found")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++ here")
def test_clang_compiles_the_cpu_library(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "clang++")
    monkeypatch.setenv("CUDA_HOME", os.devnull)
    builder().build(tmp_path / "ops", tmp_path / "objects")
    assert (tmp_path / "ops" / "libdistgan_cpu.so").exists()
