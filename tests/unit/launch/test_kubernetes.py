"""What `launch k8s` refuses before anything is sent, and how it tells of runs: no cluster, and for most of it no kubectl."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from distgan.errors import InputError, RunError
from distgan.launch.__main__ import main, parse
from distgan.launch.job import NodeCount
from distgan.launch.kubernetes import changes, quantity, run_name, runs
from distgan.launch.kubernetes.kubectl import failure
from distgan.launch.kubernetes.pod_settings import PodSettings, settle
from distgan.launch.kubernetes.rendering import Rendering
from distgan.launch.kubernetes.runs import Pod, Run
from distgan.launch.kubernetes.status import describe

K8S = Path(__file__).parents[3] / "k8s"
OVERLAY_RECIPE = "train: {total_kimg: 7}\n"


@pytest.fixture(scope="module")
def overlay() -> Rendering:
    """The base as it stands, with what kustomize would make of the recipe."""
    recipe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "distgan-recipe-1234"}}
    recipe["data"] = {"recipe.yaml": OVERLAY_RECIPE, "there.json": "{}"}
    return Rendering((K8S / "base" / "job.yaml").read_text() + "\n---\n" + yaml.safe_dump(recipe), "The overlay 'test'")


def settled(overlay: Rendering, scratch: Path, *settings: str, num_nodes: int = 2) -> PodSettings:
    return settle(settings, overlay, "digits-dcgan", NodeCount(1, num_nodes), 8, scratch)


def refusals(overlay: Rendering, scratch: Path, *settings: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        settled(overlay, scratch, *settings)
    return caught.value.problems


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--nodes", "0"], "--nodes is '0'; give the number of nodes, such as 4, or the least and the most, such as 2:4."),
        (["--nodes", "4:2"], "--nodes is '4:2'; give the number"),
        (["--name", "My_run"], "--name is 'My_run', but names of Kubernetes are of a-z, 0-9 and '-', which neither begins nor ends them"),
        (["--name=-a"], "--name is '-a', but names"),
        (["--gpus-per-node", "17"], "--gpus-per-node is 17; give a number from 0 to 16."),
        (["--gpus-per-node", "0", "--ranks-per-node", "0"], "--ranks-per-node is 0; give a number from 1 to 16."),
        (["--cpus", "four"], "--cpus is 'four'; give an amount as Kubernetes writes it, such as 16 or 500m."),
        (["--memory", "64GB"], "--memory is '64GB'; give an amount as Kubernetes writes it, such as 128Gi."),
        (["--image", "registry/my image:1"], "--image is 'registry/my image:1'; give a registry, a name in small letters and a tag"),
        (["--image", "registry/Distgan"], "--image is 'registry/Distgan'; give a registry, a name in small letters and a tag"),
        (["--namespace", "ML_Team"], "--namespace is 'ML_Team', but names of Kubernetes"),
        (["--component", "monitor"], "--component is 'monitor'; give one of "),
        (["--overlay", "no/where"], "--overlay is 'no/where'; give one of cpu-smoke, "),
    ],
)
def test_options_that_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    assert main(["k8s", "render", *arguments]) == 2
    assert f"distgan.launch: error: {sentence}" in capsys.readouterr().err


def test_all_that_is_wrong_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "submit", "--nodes", "many", "--cpus", "-1", "--name", "A"]) == 2
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["--nodes", "--name", "--cpus"]


def test_a_machine_without_kubectl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["k8s", "render"]) == 2
    assert "kubectl is not on the PATH, which renders the manifests and talks to the cluster; install it" in capsys.readouterr().err
    assert main(["k8s", "status"]) == 2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["--train.batch_size", "24"],
            "train.batch_size is 24, which does not divide by every number of ranks that 1 to 2 nodes of 8 have",
        ),
        (
            ["--data.url", "photos/{000..001}.tar"],
            "data.url is 'photos/{000..001}.tar', a path of this machine, which the pods do not have;",
        ),
        (["--data.url", "~/photos"], "data.url is '~/photos', a path of this machine"),
        (["--data.url", "/tmp/photos"], "data.url is '/tmp/photos', in a volume of the pods that is empty when they start;"),  # noqa: S108
        (["--data.url", "ftp://host/x.tar"], "data.url begins with 'ftp:', which is not read;"),
        (["--data.url", "x-{000..001.tar"], "data.url is 'x-{000..001.tar', whose braces do not pair"),
        (["--data.cache_dir", "/root/cache"], "data.cache_dir is '/root/cache', where a pod has no volume to write to; leave it out"),
        (["--data.cache_dir", "/etc/distgan/cache"], "data.cache_dir is '/etc/distgan/cache', where a pod has no volume to write to"),
        (["--run.overwrite"], "run.overwrite is true, but a pod that is started again would move aside what the run has learnt;"),
        (["--metrics.port", "9500"], "metrics.port is 9500, but what the manifests declare, admit and scrape is 9400; leave it out."),
        (["--metrics.port", "0"], "metrics.port is 0, but what the manifests"),
        (["--engine.zero_stage", "1"], "engine.zero_stage is 1, but engine.name is 'ddp'"),
        (["--gpus", "8"], "gpus is not a setting"),
    ],
)
def test_settings_that_are_refused(overlay: Rendering, tmp_path: Path, settings: list[str], sentence: str) -> None:
    problems = refusals(overlay, tmp_path, *settings)
    assert any(problem.startswith(sentence) for problem in problems), problems


def test_all_settings_that_are_wrong_are_told_at_once(overlay: Rendering, tmp_path: Path) -> None:
    fields = [
        problem.split()[0] for problem in refusals(overlay, tmp_path, "--metrics.port", "1", "--data.url", "x", "--train.batch_size", "3")
    ]
    assert fields == ["data.url", "metrics.port", "train.batch_size"]


@pytest.mark.parametrize("url", ["digits", "s3://faces/{000..127}.tar", "https://host/faces", "pipe:cat x.tar", "/runs/faces/*.tar"])
def test_data_that_pods_can_reach(overlay: Rendering, tmp_path: Path, url: str) -> None:
    assert settled(overlay, tmp_path, "--data.url", url).warnings == []


def test_a_cache_that_its_volume_has_no_room_for(overlay: Rendering, tmp_path: Path) -> None:
    """100Gi, in the 10^9 bytes of the setting."""
    for name in ("full", "fits"):
        (tmp_path / name).mkdir()
    remote = ["--data.url", "s3://faces", "--data.cache_gigabytes"]
    (warning,) = settled(overlay, tmp_path / "full", *remote, "108").warnings
    assert warning.startswith("data.cache_gigabytes is 108, but /cache has room for 107, and a pod that fills it is evicted;")
    assert settled(overlay, tmp_path / "fits", *remote, "107").warnings == []


def test_a_gpu_node_of_which_no_gpu_is_wanted(overlay: Rendering) -> None:
    with_gpus = Rendering(overlay.text.replace("limits: {", "limits: {nvidia.com/gpu: 8, "), overlay.source)

    def warnings(*arguments: str) -> list[str]:
        return changes.warnings_about(parse(["k8s", "render", "--image", "registry/distgan:1", *arguments]), with_gpus)

    (warning,) = warnings("--gpus-per-node", "0")
    assert warning.startswith(
        "--gpus-per-node is 0, but each pod still asks for cpu 8 and memory 64Gi, as a node of 8 GPUs has; give --cpus"
    )
    (warning,) = warnings("--gpus-per-node", "0", "--cpus", "4")
    assert "asks for memory 64Gi" in warning
    assert "--cpus" not in warning
    assert warnings("--gpus-per-node", "0", "--cpus", "4", "--memory", "8Gi") == warnings("--gpus-per-node", "2") == []


def test_gpus_on_top_of_an_overlay_without(overlay: Rendering) -> None:
    options = ["k8s", "render", "--image", "registry/distgan:1"]
    (warning,) = changes.warnings_about(parse([*options, "--gpus-per-node", "8"]), overlay)
    assert warning.startswith("--gpus-per-node is 8, but CPUs, memory and /dev/shm of the overlay 'test' are those of pods without GPUs;")
    assert changes.warnings_about(parse(options), overlay) == []


@pytest.mark.parametrize("image", ["distgan", "team/distgan", "localhost:5000/distgan:1", "Reg.io/a-b/c__d:V1", f"r/d@sha256:{'a' * 64}"])
def test_images_that_there_may_be(image: str) -> None:
    assert changes.problems(parse(["k8s", "render", "--image", image])) == []


def test_an_image_that_no_registry_has(overlay: Rendering) -> None:
    (warning,) = changes.warnings_about(parse(["k8s", "render"]), overlay)
    assert warning == "image is 'distgan', which is in no registry; give --image, unless the nodes hold it."


def test_an_overlay_whose_nodes_contradict_each_other(overlay: Rendering) -> None:
    three = Rendering(overlay.text.replace("completions: 1", "completions: 3"), overlay.source)
    (problem,) = changes.problems_with(parse(["k8s", "render", "--overlay", "mine"]), three)
    assert problem.startswith("The Job of the overlay 'test' has completions 3, but NODES in its container is 1; give --nodes 3, or")
    assert changes.problems_with(parse(["k8s", "render", "--overlay", "mine", "--nodes", "3"]), three) == []


def test_data_that_the_image_may_hold(overlay: Rendering, tmp_path: Path) -> None:
    (warning,) = settled(overlay, tmp_path, "--data.url", "/data/faces").warnings
    assert warning.startswith("data.url is '/data/faces', which is in no volume of the pods; unless the image holds it, set it to a URL")


def test_settings_win_over_the_overlays_recipe(overlay: Rendering, tmp_path: Path) -> None:
    (tmp_path / "My_faces.yaml").write_text("{train: {batch_size: 32}, run: {dir: somewhere/Cats.v2}, metrics: {host: 127.0.0.2}}")
    settings = settled(overlay, tmp_path, "--config", str(tmp_path / "My_faces.yaml"), "--train.discriminator_steps", "2")
    recipe = yaml.safe_load(settings.files["recipe.yaml"])
    assert recipe["train"] == {"total_kimg": 7, "batch_size": 32, "discriminator_steps": 2}
    assert "dir" not in recipe["run"]
    assert "host" not in recipe["metrics"]
    assert recipe["metrics"]["port"] == 9400
    assert settings.suggested_name == "cats-v2"
    (warning,) = settings.warnings
    assert warning.startswith("metrics.host is '127.0.0.2', but the pods serve at '0.0.0.0'")


def test_a_run_is_called_after_its_last_configuration(overlay: Rendering, tmp_path: Path) -> None:
    for name in ("First.yaml", "My_faces.yaml"):
        (tmp_path / name).write_text("{}")
    configs = [word for name in ("First.yaml", "My_faces.yaml") for word in ("--config", str(tmp_path / name))]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert settled(overlay, tmp_path / "a", *configs).suggested_name == "my-faces"
    assert settled(overlay, tmp_path / "b").suggested_name == "digits-dcgan"


def test_files_of_deepspeed(overlay: Rendering, tmp_path: Path) -> None:
    """One of this machine goes along; one of the overlay's is there."""
    (tmp_path / "buckets.json").write_text('{"zero_optimization": {"overlap_comm": true}}')
    engine = ["--engine.name", "deepspeed", "--engine.deepspeed_config"]
    for name in ("local", "there"):
        (tmp_path / name).mkdir()
    local = settled(overlay, tmp_path / "local", *engine, str(tmp_path / "buckets.json"))
    assert local.files["deepspeed.json"] == (tmp_path / "buckets.json").read_text()
    assert yaml.safe_load(local.files["recipe.yaml"])["engine"]["deepspeed_config"] == "/etc/distgan/deepspeed.json"
    there = settled(overlay, tmp_path / "there", *engine, "/etc/distgan/there.json")
    assert there.files.keys() == {"recipe.yaml"}
    assert yaml.safe_load(there.files["recipe.yaml"])["engine"]["deepspeed_config"] == "/etc/distgan/there.json"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "The overlay 'x' renders 0 Jobs, but a run is one; give --overlay one that has an overlay of the launcher's as a resource."),
        (
            "{kind: Job, spec: {template: {spec: {containers: [{name: main}]}}}}",
            "The overlay 'x' renders a Job without a container 'train';",
        ),
        ("{kind: Job, spec: {template: {spec: {containers: [{name: train}]}}}}", "The overlay 'x' renders a container without --config"),
        ("{kind: JobSet}", "The overlay 'x' renders a JobSet, which this command does not know; send it by `kubectl apply -k`"),
    ],
)
def test_manifests_that_are_no_run(text: str, sentence: str, tmp_path: Path) -> None:
    assert refusals(Rendering(text, "The overlay 'x'"), tmp_path)[0].startswith(sentence)


def test_names_are_as_long_as_a_host_name_lets_them() -> None:
    """RFC 1123: 63 characters, and the highest index of 100 pods has two."""
    longest = "a" * (63 - len("distgan--99"))
    assert run_name.length_problems(longest, "distgan", num_nodes=100) == []
    (problem,) = run_name.length_problems(longest, "distgan", num_nodes=101)
    assert f"give a --name of at most {len(longest) - 1}." in problem


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("8", 8), ("1.5", 1.5), ("64Gi", 2**36), ("2k", 2000)])
def test_amounts(text: str, value: float) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize(
    ("complaint", "kind", "sentence"),
    [
        (
            'E0131 12:00:00.000000   10870 memcache.go:265] "Unhandled Error" err="dial tcp"\n'
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            RunError,
            "kubectl get failed: The connection to the server localhost:8080 was refused - did you specify the right host or port?; check "
            "--context, and that the cluster can be reached from here.",
        ),
        (
            'Error from server (Forbidden): jobs.batch is forbidden: User "x" cannot list resource "jobs"',
            RunError,
            'kubectl get failed: jobs.batch is forbidden: User "x" cannot list resource "jobs"; log in as someone who may, or give a '
            "--namespace in which you may.",
        ),
        (
            "Error in configuration: context was not found for specified context: nope",
            InputError,
            "kubectl get failed: context was not found for specified context: nope; give --context one that `kubectl config get-contexts` "
            "lists.",
        ),
        (
            'E0131 12:00:00.000000 1 run.go:72] "command failed" err="accumulating resources: no such file"',
            RunError,
            "kubectl get failed: accumulating resources: no such file.",
        ),
        ("", RunError, "kubectl get failed: it did not say why."),
    ],
)
def test_what_kubectl_complains_of_is_one_sentence(complaint: str, kind: type[Exception], sentence: str) -> None:
    error = failure("kubectl get", complaint)
    assert (type(error), str(error)) == (kind, sentence)


NOW = 1_800_000_000.0


@pytest.fixture
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "time", SimpleNamespace(time=lambda: NOW))


def ago(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - seconds))


def pod(index: int, name: str, age_seconds: float, status: dict[str, Any], **metadata: str) -> Pod:
    labels = {"batch.kubernetes.io/job-completion-index": str(index)}
    spec = {"nodeName": "machine-7"} if "containerStatuses" in status else {}
    return Pod(
        {"metadata": {"name": name, "creationTimestamp": ago(age_seconds), "labels": labels, **metadata}, "spec": spec, "status": status}
    )


def ended(phase: str, code: int, message: str, *conditions: dict[str, str]) -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": message, "finishedAt": ago(125)}}
    return {"phase": phase, "containerStatuses": [{"name": "train", "state": state}], "conditions": list(conditions)}


@pytest.mark.usefixtures("_now")
def test_a_run_as_a_table() -> None:
    """For each index its newest pod, and how the last one ended; the words of Kubernetes where it waits."""
    running = {"phase": "Running", "containerStatuses": [{"name": "train", "state": {"running": {}}}]}
    pulling = {"name": "train", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    preempted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    job = {
        "metadata": {"name": "distgan-faces", "creationTimestamp": ago(7300)},
        "spec": {"completions": 4},
        "status": {"active": 4, "failed": 2},
    }
    pods = [
        pod(0, "a-0-old", 600, ended("Failed", 75, "SIGTERM: training was\nsaved.", preempted)),
        pod(0, "a-0-new", 150, running),
        pod(1, "a-1-new", 150, {"phase": "Pending", "conditions": [unscheduled]}),
        pod(2, "a-2-new", 150, {"phase": "Pending", "containerStatuses": [pulling]}),
        pod(3, "a-3-new", 150, running, deletionTimestamp=ago(1)),
    ]
    lines = [line.split("  ") for line in describe(Run("faces", job, pods)).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["faces: running for 2h; pods: 4 active, 0 succeeded, 2 failed, of 4"],
        ["INDEX", "POD", "PHASE", "NODE", "AGE", "LAST END"],
        ["0", "a-0-new", "Running", "machine-7", "2m", "exit code 75, 2m ago (PreemptionByScheduler): SIGTERM: training was saved."],
        ["1", "a-1-new", "Pending (Unschedulable: 0/3 nodes are available)", "-", "2m", "-"],
        ["2", "a-2-new", "Pending (ImagePullBackOff: no such image)", "machine-7", "2m", "-"],
        ["3", "a-3-new", "Terminating", "machine-7", "2m", "-"],
    ]


@pytest.mark.usefixtures("_now")
@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ({"type": "Complete", "status": "True", "lastTransitionTime": ago(600)}, "Complete 10m ago;"),
        (
            {"type": "Failed", "status": "True", "lastTransitionTime": ago(600), "reason": "PodFailurePolicy", "message": "exit code 2"},
            "Failed 10m ago (PodFailurePolicy: exit code 2);",
        ),
        ({"type": "Failed", "status": "False"}, "running for 45s;"),
        ({"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "queued"}, "suspended (JobSuspended: queued);"),
        ({"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"}, "is failing (PodFailurePolicy);"),
    ],
)
def test_conditions_of_a_job(condition: dict[str, str], text: str) -> None:
    job = {"metadata": {"creationTimestamp": ago(45)}, "spec": {"completions": 1}, "status": {"conditions": [condition]}}
    assert describe(Run("faces", job)).startswith(f"faces: {text}")


def test_a_run_that_was_stopped() -> None:
    assert describe(Run("faces", volumes=["distgan-runs-faces"])) == "faces: no Job; the volume distgan-runs-faces is kept"
