#!/bin/sh
# Trains under DeepSpeed's own launcher, with ZeRO; torchrun does as well, and hands exit codes and restarts on more plainly.
#
# launch/deepspeed.sh --engine.zero_stage 2 --run.dir runs/a
# NPROC=4 launch/deepspeed.sh --config my.yaml                   4 processes on this machine (default: one per GPU, or 2 on the CPU)
# HOSTFILE=hosts launch/deepspeed.sh --config my.yaml            the machines of a hostfile ('worker-1 slots=8' a line), through ssh
# PORT=29501 launch/deepspeed.sh                                 where the processes meet, if 29500 is taken
set -eu
set -- --master_port "${PORT:-29500}" --no_local_rank --module distgan.train --engine.name deepspeed "$@"
if [ -n "${HOSTFILE:-}" ]; then
    exec deepspeed --hostfile "$HOSTFILE" "$@"
fi
exec deepspeed --num_gpus "${NPROC:-$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}" "$@"
