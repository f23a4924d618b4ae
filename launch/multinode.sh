#!/bin/sh
# Trains on several machines that share a file system, plainly by torchrun: run it on each of them, in any order.
# `python -m distgan.launch multinode --hosts node-0,node-1` starts them all from one place.
#
# NODES=2 NODE_RANK=0 MASTER_ADDR=node-0 launch/multinode.sh --run.dir /shared/runs/a        on node-0
# NODES=2 NODE_RANK=1 MASTER_ADDR=node-0 launch/multinode.sh --run.dir /shared/runs/a        on the other one
# NPROC=4 MASTER_PORT=29501                                  processes on each (default: one per GPU, or 2 on the CPU), and where they meet
#
# Where a machine has several networks, NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME name the one to use.
set -eu
: "${NODES:?is the number of machines}" "${NODE_RANK:?is the number of this machine, from 0}" "${MASTER_ADDR:?is the name of machine 0}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
nproc=${NPROC:-$(python -c 'import torch; print(torch.cuda.device_count() or 2)')}
exec torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --nproc_per_node "$nproc" \
    --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}" -m distgan.train "$@"
