"""The emulator itself, with kernels that have one fault each (kernels/faults.cu): what it shows, and that it survives that."""

import os
import subprocess
import sys

import pytest
import torch

from tests.unit.ops.implementations import CHECKOUT, SANITIZED, builder, emulator, emulator_module, operators

THREADS = 64
TIMEOUT_SECONDS = 540  # of a run under the sanitizers, which is some times slower
sanitizers_are_started = pytest.mark.skipif(SANITIZED in os.environ, reason="the run under the sanitizers does not start another")


@pytest.fixture
def faults():
    emulator()
    return torch.ops.distgan_faults


def neighbours(run) -> torch.Tensor:
    data = torch.zeros(THREADS)
    run(data)
    return data


def run_reversed(run) -> torch.Tensor:
    with operators("emulator_reversed"):
        return neighbours(run)


def assert_usable(faults) -> None:
    expected = torch.arange(THREADS).roll(-1).float()
    assert torch.equal(neighbours(faults.neighbours), expected)
    assert torch.equal(run_reversed(faults.neighbours), expected)


def test_emulator_shows_a_missing_barrier_by_another_order(faults):
    assert_usable(faults)
    forwards, backwards = neighbours(faults.neighbours_without_barrier), run_reversed(faults.neighbours_without_barrier)
    assert not torch.equal(forwards, backwards)
    assert forwards.isnan().any()


@pytest.mark.parametrize("fault", ["barrier_for_some", "shuffle_for_some"])
def test_emulator_ends_a_hang_with_an_error(faults, fault):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="The kernel hangs"):
            getattr(faults, fault)(torch.zeros(THREADS))
        assert_usable(faults)


def test_emulator_survives_an_exception_in_the_middle_of_a_block(faults):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="thrown in the middle"):
            faults.throws_between_barriers(torch.zeros(THREADS))
        assert_usable(faults)


def test_emulator_has_nan_in_memory_that_was_not_written(faults):
    data = torch.zeros(THREADS)
    faults.neighbours(data)  # leaves numbers where the next block's shared memory may lie
    faults.reads_unwritten_shared_memory(data)
    assert data.isnan().all()
    output = faults.unwritten_output(torch.zeros(THREADS))
    assert torch.equal(output.isnan(), torch.arange(THREADS) == THREADS - 1)


@pytest.mark.parametrize("threads", [0, 31, 1056])
def test_emulator_refuses_a_block_that_is_not_whole_warps(faults, threads):
    with pytest.raises(RuntimeError, match=r"A block has whole warps and at most 1024 threads."):
        faults.neighbours(torch.zeros(threads))


def test_emulator_counts_what_runs(faults):
    emulator().reset()
    faults.neighbours(torch.zeros(THREADS))
    assert emulator().counters() == {"launches": 1, "blocks": 1, "barriers": 1}


def run_sanitized(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with the sanitizers' libraries, which have to be in a process before all others."""
    compiler = builder().Compilers.find().cxx
    if compiler is None or "g++" not in compiler:
        pytest.skip("the sanitizers' libraries are looked for beside g++, which is not here")
    names = ["libasan.so", "libubsan.so", "libstdc++.so"]
    asked = [subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True) for name in names]
    environment = os.environ | {
        SANITIZED: "1",
        "LD_PRELOAD": " ".join(answer.stdout.strip() for answer in asked),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )


@pytest.fixture(scope="module")
def sanitized_module():
    """Compiled before anything is preloaded into the compiler too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SANITIZED, "1")
        return emulator_module()


@sanitizers_are_started
@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("writes_past_shared_memory", "heap-buffer-overflow"),
        ("writes_past_global_memory", "heap-buffer-overflow"),
        ("writes_past_its_stack", "index 4 out of bounds"),
    ],
)
def test_sanitizers_find_what_is_out_of_bounds(sanitized_module, fault, finding):
    code = "import sys, torch; from tests.unit.ops.implementations import emulator; emulator(); "
    run = run_sanitized("-c", f"{code} getattr(torch.ops.distgan_faults, sys.argv[1])(torch.full(({THREADS},), 4.0))", fault)
    assert run.returncode != 0
    assert finding in run.stderr, run.stderr
    assert f"in {fault} " in run.stderr or f"{fault}(" in run.stderr


@sanitizers_are_started
@pytest.mark.timeout(TIMEOUT_SECONDS + 60)
def test_every_kernel_is_clean_under_the_sanitizers(sanitized_module):
    run = run_sanitized("-m", "pytest", "tests/unit/ops", "-k", "emulator", "-q", "-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
