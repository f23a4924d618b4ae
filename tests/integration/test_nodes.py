"""Several nodes, each with an agent of its own, started by launch/multinode.sh: here all on one machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distgan import checkpoint
from distgan.bench.ranks import free_port

SCRIPT = Path(__file__).parents[2] / "launch" / "multinode.sh"
SMALL = ["--train.total_kimg", "0.192", "--metrics.port", "0", "--model.name", "mlp", "--model.generator_sizes", "32"]


def _agents(num_nodes: int, ranks_per_node: int, run: Path, *arguments: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODES": str(num_nodes), "NPROC": str(ranks_per_node)}
    agents = [
        subprocess.Popen(
            [SCRIPT, *SMALL, "--run.dir", str(run), *arguments],
            env=os.environ | meeting | {"NODE_RANK": str(node), "PATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(num_nodes)
    ]
    for agent in agents:
        _, printed = agent.communicate(timeout=240)
        assert agent.returncode == 0, printed
        assert "Warning" not in printed, printed


@pytest.mark.parametrize("arguments", [[], ["--engine.name", "deepspeed", "--engine.zero_stage", "2"]], ids=["ddp", "deepspeed"])
def test_two_nodes_train_what_one_node_trains(arguments: list[str], tmp_path: Path) -> None:
    _agents(2, 1, tmp_path / "two", *arguments)
    start = json.loads((tmp_path / "two" / "log.jsonl").read_text().splitlines()[0])
    assert (start["num_nodes"], start["num_ranks"]) == (2, 2)
    assert (start["engine"], start["precision"]) == ("deepspeed, ZeRO stage 2" if arguments else "ddp", "fp32")
    _agents(1, 2, tmp_path / "one", *arguments)
    two, one = (checkpoint.load(tmp_path / name / "checkpoints", 3).tensors for name in ("two", "one"))
    assert two.keys() == one.keys()
    for group, tensors in one.items():
        assert all(torch.equal(two[group][name], value) for name, value in tensors.items()), group
