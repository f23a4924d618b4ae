#!/bin/sh
# Trains on this machine, plainly by torchrun. `python -m distgan.launch local` does the same and checks the settings first, hands on exit
# codes (torchrun turns each failure into 1), and says where the metrics are.
#
# launch/local.sh --config my.yaml
# NPROC=4 launch/local.sh --run.dir runs/a             4 processes (default: one per GPU, or 2 on the CPU)
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
nproc=${NPROC:-$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}
exec torchrun --standalone --nproc_per_node "$nproc" -m distgan.train "$@"
