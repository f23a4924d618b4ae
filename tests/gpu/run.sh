#!/usr/bin/env bash
# Everything that only a GPU can show, in under 10 minutes: compiles for the GPU that is here, runs the operators' tests on it, runs
# them under compute-sanitizer, measures them. Leaves bench.json, summary.json and a log of each step. Written without a GPU at hand.
#
# tests/gpu/run.sh                       # results in build/gpu/
# PYTHON=python3 tests/gpu/run.sh DIR    # needs torch with CUDA, ninja, pybind11, pytest, pytest-timeout and what distgan depends on; deepspeed for the engines
set -uo pipefail
cd "$(dirname "$0")/../.."
results=$(realpath -m "${1:-build/gpu}")
python=${PYTHON:-.venv/bin/python}
mkdir -p "$results"
: >"$results/steps.tsv"

"$python" -c 'import ninja, pybind11, pytest, pytest_timeout, sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "run.sh: there is no CUDA device, or a package is missing for $python." >&2
    exit 2
}
export OMP_NUM_THREADS=4
TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
export TORCH_CUDA_ARCH_LIST

# step NAME SECONDS COMMAND...: what it prints goes to NAME.log; later steps run whatever comes of it.
step() {
    local name=$1 seconds=$2 start=$SECONDS status=0
    shift 2
    timeout --kill-after 10 "$seconds" "$@" >"$results/$name.log" 2>&1 || status=$?
    printf '%s\t%d\t%d\n' "$name" "$status" $((SECONDS - start)) | tee -a "$results/steps.tsv"
    return "$status"
}

step build 80 "$python" setup.py build_ext --inplace || {
    tail -n 40 "$results/build.log" >&2
    exit 1
}
step operators 20 "$python" -m distgan.ops
grep -q 'Operators on cuda: compiled' "$results/operators.log" || {
    cat "$results/operators.log" >&2
    exit 1
}
gpu_tests=("$python" -m pytest -q -p no:cacheprovider tests/gpu/test_operators.py)
step gpu_tests 60 "${gpu_tests[@]}"
step unit_tests 90 "$python" -m pytest -q -p no:cacheprovider tests/unit/ops -k cuda --ignore tests/unit/ops/test_build.py
for tool in memcheck racecheck; do
    step "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "${gpu_tests[@]}" -k 'current_stream or derivative'
done
step metrics 60 "$python" -m pytest -q -p no:cacheprovider tests/gpu/test_metrics.py
step engines 120 "$python" -m pytest -q -p no:cacheprovider tests/gpu/test_training.py
step bench 100 "$python" -m distgan.bench ops --device cuda --seconds 0.5 --out "$results/bench.json"

"$python" - "$results" <<'END'
import json, pathlib, sys
import torch
results = pathlib.Path(sys.argv[1])
steps = {}
for line in (results / "steps.tsv").read_text().splitlines():
    name, code, seconds = line.split("\t")
    last = (results / f"{name}.log").read_text().strip().rpartition("\n")[2]
    steps[name] = {"exit_code": int(code), "seconds": int(seconds), "last_line": last}
summary = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda, "steps": steps}
(results / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
print(json.dumps(summary, indent=2))
sys.exit(any(step["exit_code"] for step in steps.values()))
END
