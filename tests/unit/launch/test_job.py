"""What is checked before anything is started: numbers of nodes and ranks, and settings for every number of ranks there may be."""

from pathlib import Path

import pytest

from distgan.errors import InputError
from distgan.launch.__main__ import parse
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


@pytest.mark.parametrize(
    ("most", "accumulation", "mend"),
    [
        (4, 1, "set it to a multiple of 24."),  # of 2, 4, 6 and 8 ranks
        (4, 3, "set it to a multiple of 72."),
        (4096, 1, "give --nodes fewer to range over."),
    ],
)
def test_a_batch_has_to_divide_by_every_number_of_ranks_there_may_be(most: int, accumulation: int, mend: str) -> None:
    settings = ["--engine.accumulation_steps", str(accumulation), "--train.batch_size"]
    with pytest.raises(InputError) as refused:
        checked([*settings, "64"], NodeCount(1, most), 2)
    (problem,) = refused.value.problems
    assert problem.startswith(f"train.batch_size is 64, which does not divide by every number of ranks that 1 to {most} nodes of 2 have")
    assert problem.endswith(mend)
    if mend.startswith("set"):
        checked([*settings, mend.split()[-1].rstrip(".")], NodeCount(1, most), 2)


def test_all_problems_at_once_and_each_once() -> None:
    with pytest.raises(InputError) as refused:
        checked(["--loss.name", "wasserstein", "--engine.zero_stage", "2"], NodeCount(1, 4), 1)
    fields = [problem.partition(" ")[0] for problem in refused.value.problems]
    assert fields == ["train.batch_size", "loss.name", "engine.zero_stage"]


@pytest.mark.parametrize(
    ("arguments", "mend"),
    [
        (["local", "--colour", "2"], "see --help"),
        (["k8s", "render", "--node=2"], "did you mean --nodes?"),
        (["k8s", "submit", "--compnent", "s3-data"], "did you mean --component?"),
        (["slurm", "submit", "--partitoin", "a"], "did you mean --partition?"),
        (["plan", "--measured", "x", "--gpus", "8", "--network-gbits", "100"], "did you mean --network-gbit?"),
        (["worker", "--", "--nodes", "2"], "did you mean --nodes?"),
    ],
)
def test_a_misspelt_option_is_no_setting(arguments: list[str], mend: str) -> None:
    with pytest.raises(InputError, match=r"^--[a-z-]+ is neither an option of this command nor a setting of the run; ") as refused:
        parse(arguments)
    assert mend in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["multinode", "--hosts", "a,b", "--master-port", "70000"],
            "argument --master-port: '70000' is no port, which are numbers from 1 to",
        ),
        (["worker", "--master-port", "0"], "'0' is no port"),
        (["multinode", "--hosts", "a,b", "--ssh", "ssh -i 'bad"], 'argument --ssh: "ssh -i \'bad" is no command (no closing quotation)'),
        (["multinode", "--hosts", "a,b", "--ssh", ""], "'' is no command"),
        (["plan", "--measured", "x", "--gpus", "64,4096"], "'64,4096' is no whole number; between several, put spaces: 64 512"),
    ],
)
def test_options_of_a_kind_are_refused_while_they_are_read(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse(arguments)
    assert words in str(refused.value)


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
