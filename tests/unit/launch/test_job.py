"""What is checked before anything is started: numbers of nodes and ranks, and settings for every number of ranks there may be."""

from pathlib import Path

import pytest

from distgan.errors import InputError
from distgan.launch.agent import Node, command
from distgan.launch.job import NodeCount, checked, metrics_url, ranks_on_this_node
from distgan.launch.shipped import shipped


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("4", 4, 4), ("2:4", 2, 4)])
def test_numbers_of_nodes(text: str, least: int, most: int) -> None:
    assert NodeCount.parse(text) == NodeCount(least, most)
    assert str(NodeCount.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "4:2", "0:2", "1:", "1:2:3", "1.5"])
def test_what_is_no_number_of_nodes(text: str) -> None:
    with pytest.raises(InputError, match=r"^--nodes is "):
        NodeCount.parse(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", ""])
def test_what_is_no_number_of_ranks(text: str) -> None:
    with pytest.raises(InputError, match=r"^--ranks-per-node is "):
        ranks_on_this_node(text)


def test_a_batch_has_to_divide_by_every_number_of_ranks_there_may_be() -> None:
    checked(["--train.batch_size", "48"], NodeCount(1, 4), 2)
    with pytest.raises(InputError) as refused:
        checked(["--train.batch_size", "64"], NodeCount(1, 4), 2)
    (problem,) = refused.value.problems
    assert problem.startswith("train.batch_size is 64, which does not divide by 6 ranks")


def test_all_problems_at_once_and_each_once() -> None:
    with pytest.raises(InputError) as refused:
        checked(["--loss.name", "wasserstein", "--engine.zero_stage", "2"], NodeCount(1, 4), 1)
    fields = [problem.partition(" ")[0] for problem in refused.value.problems]
    assert fields == ["loss.name", "engine.zero_stage", "train.batch_size"]


@pytest.mark.parametrize("argument", ["--rank", "--node=3"])
def test_a_misspelt_option_is_no_setting(argument: str) -> None:
    with pytest.raises(InputError, match=f"^{argument.partition('=')[0]} is neither an option of this command nor a setting"):
        checked([argument], NodeCount(1, 1), 1)


def test_where_metrics_are() -> None:
    config = checked(["--metrics.port", "9500"], NodeCount(1, 1), 1)
    assert metrics_url(config, "node-0") == "http://node-0:9500/metrics"
    assert metrics_url(checked(["--metrics.port", "0"], NodeCount(1, 1), 1), "node-0") is None


def test_files_that_the_launchers_need_are_there() -> None:
    assert (shipped("k8s") / "base" / "job.yaml").is_file()
    assert shipped("launch/deepspeed.sh") == Path(__file__).parents[3] / "launch" / "deepspeed.sh"


def test_a_node_is_an_agent_of_torchrun() -> None:
    one = Node(NodeCount(1, 1), 0, 8)
    assert command(one, ["--x.y", "1"])[:6] == ["torchrun", "--nproc-per-node", "8", "--max-restarts", "0", "--standalone"]
    static = command(Node(NodeCount(4, 4), 3, 8, "node-0"), [])
    assert static[static.index("--nnodes") :][:8] == (
        ["--nnodes", "4", "--node-rank", "3", "--master-addr", "node-0", "--master-port", "29500"]
    )
    elastic = command(Node(NodeCount(2, 4), 0, 8, "node-0", run_id="a"), [])
    assert elastic[elastic.index("--nnodes") + 1] == "2:4"
    assert elastic[elastic.index("--rdzv-endpoint") + 1] == "node-0:29500"
    assert elastic[elastic.index("--rdzv-conf") + 1].endswith(",is_host=1"), "the store is node 0's"
