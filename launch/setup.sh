#!/bin/sh
# Makes .venv: this package, editable, with every dependency at the version of constraints.txt. Running it again repairs or updates.
#
# launch/setup.sh
# PYTHON=/path/to/python launch/setup.sh
set -eu
cd "$(dirname "$0")/.."

pip() {
    .venv/bin/python -m pip --disable-pip-version-check "$@"
}

# Prints nothing; what pip and uv say goes to .venv/setup.log.
try_install() {
    pip install -q -c constraints.txt "$@" >>.venv/setup.log 2>&1
}

install() {
    try_install "$@" || {
        grep -E 'error( [A-Z0-9]+)?:' .venv/setup.log | head -n 5 >&2 || true # a compiler's, far above pip's own last lines
        tail -n 15 .venv/setup.log >&2
        echo "setup: pip could not install $*; all it said is in .venv/setup.log." >&2
        exit 1
    }
}

# A name on PATH proves nothing (pyenv has shims for versions that are not there), so a candidate has to run.
is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Prints the first Python that will do. Debian keeps ensurepip, without which `venv` fails, in a package of its own.
find_python() {
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; else set -- python3 python3.14 python3.13 python3.12 python3.11; fi
    without_venv=
    for candidate; do
        is_recent "$candidate" || continue
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -n "$without_venv" ]; then
        echo "setup: $without_venv has no venv module; install it (Debian, Ubuntu: apt-get install python3-venv)." >&2
    else
        echo "setup: no Python 3.11 or newer runs here (tried: $*); install one, or name one with PYTHON=/path/to/python." >&2
    fi
    exit 2
}

# Which interpreter a Python stands on; the same for it and for a .venv made with it.
identity() {
    "$1" -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null || true
}

make_venv() {
    if [ -z "${PYTHON:-}" ] && is_recent .venv/bin/python && pip --version >/dev/null 2>&1; then return; fi
    python=$(find_python)
    if [ "$(identity "$python")" = "$(identity .venv/bin/python)" ] && pip --version >/dev/null 2>&1; then return; fi
    echo "Making .venv with $("$python" --version) ($python)"
    "$python" -m venv --clear .venv
}

has_nvidia_driver() {
    nvidia-smi -L >/dev/null 2>&1 || [ -e /proc/driver/nvidia/version ]
}

# On Linux the package index has torch only with CUDA (several GB). The CPU build is a local version, torch==X+cpu, which a
# configured index or wheel folder may have; else uv is asked, which knows where torch keeps its own CPU wheels.
try_install_cpu_torch() {
    try_install "torch==$torch_version+cpu" && return
    try_install uv || return
    .venv/bin/uv pip install --python .venv/bin/python --torch-backend cpu -c constraints.txt "torch==$torch_version" >>.venv/setup.log 2>&1
}

# Installs torch and sets $reason, why it is the build that it is.
install_torch() {
    torch_version=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' constraints.txt)
    if has_nvidia_driver; then
        reason="NVIDIA driver found"
    elif [ "$(uname -s)" != Linux ] || try_install_cpu_torch; then
        reason="no NVIDIA driver found"
    else
        reason="no NVIDIA driver found, but torch's CPU wheels are out of reach"
        echo "The CPU build of torch is out of reach; taking the default one, several GB with its CUDA packages"
    fi
    install "torch==$torch_version"
}

make_venv
: >.venv/setup.log
echo "Installing the packages of constraints.txt; this can take some minutes"
install pip setuptools
install_torch
# Without build isolation, as the operators are compiled for the very torch that is installed.
install ninja pybind11
echo "Compiling the operators; where nvcc is, this can take a minute"
export DS_BUILD_OPS=0 # DeepSpeed would compile its own operators, none of which is used
install --no-build-isolation -e '.[dev]'
.venv/bin/python - "$reason" <<'END'
import sys, torch
from distgan.ops import library
build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
print(f"torch {torch.__version__}: {build} build ({sys.argv[1]})")
for device_type in ["cpu", "cuda"] if torch.version.cuda else ["cpu"]:
    print(library.describe(device_type))
END
