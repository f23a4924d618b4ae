"""`launch k8s` by the real kubectl, against a stand-in for an API server (api_server.py says what that proves)."""

import json
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from distgan.launch.__main__ import main
from distgan.launch.kubernetes import follow, preparation, rendering
from distgan.launch.kubernetes.rendering import Rendering
from tests.kubernetes.api_http import Endpoint
from tests.kubernetes.api_server import ApiServer
from tests.kubernetes.rendering import K8S
from tests.kubernetes.schemas import read_once
from tests.processes import until
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

GUARD_SECONDS = 60
SUBMIT = ("submit", "--name", "faces", "--gpus-per-node", "0", "--ranks-per-node", "3", "--nodes", "2", "--train.batch_size", "48")
SENT = ["configmaps", "jobs", "networkpolicies", "persistentvolumeclaims", "serviceaccounts", "services"]

Answer = tuple[int, str, str]
K8s = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """With kubectl's own files beside it, and kustomize's answers kept: the same question has the same answer."""
    home = tmp_path_factory.mktemp("home")
    answers: dict[str, Rendering] = {}

    def render(directory: Path, source: str, overlay: Path, components: list[Path], changes: dict[str, Any]) -> Rendering:
        files = {path.name: path.read_text() for path in directory.iterdir()}
        question = json.dumps([source, str(overlay), list(map(str, components)), changes, files])
        return answers.get(question) or answers.setdefault(question, rendering.render(directory, source, overlay, components, changes))

    with read_once(), Endpoint(ApiServer()).serving() as endpoint, pytest.MonkeyPatch.context() as monkeypatch:
        endpoint.write_kubeconfig(home / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(home / "kubeconfig"))
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setattr(follow, "_POLL_SECONDS", 0.1)
        monkeypatch.setattr(preparation, "render", render)
        yield endpoint


@pytest.fixture
def server(endpoint: Endpoint) -> ApiServer:
    endpoint.api = ApiServer()
    return endpoint.api


@pytest.fixture
def k8s(capfd: pytest.CaptureFixture[str]) -> K8s:
    """A function: run a command of `launch k8s`; returns its exit code, stdout and stderr."""

    def run(*arguments: str) -> Answer:
        code = main(["k8s", *arguments])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def run(server: ApiServer, k8s: K8s) -> ApiServer:
    """A server that was sent a run before, as `test_submit_sends_all_of_it_and_says_what_to_type_next` shows that it is."""
    for manifest in yaml.safe_load_all(k8s("render", *SUBMIT[1:])[1]):
        server.put(manifest)
    return server


def names(server: ApiServer) -> list[str]:
    return sorted(f"{resource}/{name}" for resource, name in server.objects if resource != "namespaces")


def test_submit_sends_all_of_it_and_says_what_to_type_next(server: ApiServer, k8s: K8s) -> None:
    """The server is asked first whether it would take it."""
    code, out, err = k8s(*SUBMIT, "--component", "monitoring", "--context", "test", "--image", "registry/distgan:1")
    assert (code, err.count("\n")) == (0, 6), err
    expected = sorted([*SENT, "podmonitors", "prometheusrules"])
    assert sorted({resource for resource, _ in server.objects}) == sorted([*expected, "namespaces"])
    applied = server.requests[len(server.requests) // 2 :]
    assert server.requests == [*(f"{request} (dry run)" for request in applied), *applied]
    assert sorted(applied) == [f"PATCH {resource}" for resource in sorted([*expected, "configmaps"])], "recipe and dashboard"
    assert "job.batch/distgan-faces serverside-applied" in out
    assert "faces: 2 nodes of 3 ranks, each with cpu 2, memory 4Gi; image registry/distgan:1." in err
    assert "  python -m distgan.launch k8s logs faces --context test\n" in err
    job = server.job()
    assert job["metadata"]["managedFields"][0]["manager"] == "distgan"
    assert job["spec"]["completions"] == 2


def test_what_was_sent_is_what_is_rendered(run: ApiServer, k8s: K8s) -> None:
    """By kubectl's own account. Another recipe is another ConfigMap, and one that a Job's template, which cannot change, does not take."""

    def diff(manifests: list[Any]) -> tuple[int, str]:
        command = ["kubectl", "diff", "--server-side", "--field-manager", "distgan", "--filename", "-"]
        done = subprocess.run(command, input=yaml.safe_dump_all(manifests), capture_output=True, text=True, timeout=GUARD_SECONDS)
        return done.returncode, done.stdout + done.stderr

    assert diff(list(yaml.safe_load_all(k8s("render", *SUBMIT[1:])[1]))) == (0, "")
    changed = list(yaml.safe_load_all(k8s("render", *SUBMIT[1:], "--train.total_kimg", "7")[1]))
    code, text = diff([manifest for manifest in changed if manifest["kind"] != "Job"])
    assert (code, "+      total_kimg: 7.0" in text) == (1, True)
    assert "field is immutable" in diff(changed)[1]


def test_a_dry_run_contacts_nobody(server: ApiServer, k8s: K8s) -> None:
    code, out, err = k8s(*SUBMIT, "--dry-run", "--namespace", "team")
    assert code == 0
    assert {found["kind"] for found in yaml.safe_load_all(out)} == {resource.kind for resource in server.resources if resource.name in SENT}
    assert "\nkubectl --namespace team apply --server-side --field-manager distgan --validate=strict --filename -\n" in err
    assert server.requests == []
    assert names(server) == []


def test_a_run_that_runs_is_not_replaced(run: ApiServer, k8s: K8s) -> None:
    run.start_pod(0)
    before = list(run.requests)
    code, _, err = k8s(*SUBMIT, "--train.total_kimg", "9")
    assert code == 2
    assert (
        "error: --name is 'faces', a run that is there and has not ended; stop it first (`k8s stop faces`), or give another --name." in err
    )
    assert run.requests == before


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_run_that_has_ended_goes_on(run: ApiServer, k8s: K8s, end: str) -> None:
    """A Job's template cannot change, so it is replaced; the volume stays."""
    volume, first = run.objects["persistentvolumeclaims", "distgan-runs-faces"]["metadata"]["uid"], run.job()["metadata"]["uid"]
    run.end_pod(run.start_pod(0), 0)
    run.end_job(end)
    code, _, err = k8s(*SUBMIT, "--cpus", "3")
    assert code == 0, err
    assert "The volume distgan-runs-faces is there: the run goes on from what is in it." in err
    assert run.job()["metadata"]["uid"] != first
    assert run.job()["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "3"
    assert run.objects["persistentvolumeclaims", "distgan-runs-faces"]["metadata"]["uid"] == volume
    assert run.of_kind("Pod") == []


def test_what_the_server_refuses_leaves_nothing_behind(server: ApiServer, k8s: K8s, tmp_path: Path) -> None:
    """A misspelt field, planted in an overlay; kustomize does not know fields."""
    (tmp_path / "mine").mkdir()
    patch = '[{"op": "add", "path": "/spec/backofLimit", "value": 3}]'
    base = os.path.relpath(K8S / "overlays" / "cpu-smoke", (tmp_path / "mine").resolve())
    own = {"resources": [base], "patches": [{"target": {"kind": "Job"}, "patch": patch}]}
    (tmp_path / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(own))
    code, _, err = k8s("submit", "--overlay", str(tmp_path / "mine"), "--train.batch_size", "64")
    assert code == 2
    (sentence,) = [line for line in err.splitlines() if "error" in line]
    assert "kubectl apply failed: failed to create typed patch object (team/distgan-mine; batch/v1, Kind=Job): " in sentence
    assert sentence.endswith(".spec.backofLimit: field not declared in schema; mend the overlay or the option that it comes from.")
    assert names(server) == []


def test_a_cluster_without_what_a_component_needs(k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent; and a run without the component can be stopped there."""
    bare = ApiServer(resources=())
    with Endpoint(bare).serving() as elsewhere:
        elsewhere.write_kubeconfig(tmp_path / "kubeconfig")
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        code, _, err = k8s(*SUBMIT, "--component", "monitoring")
        assert code == 2
        assert 'no matches for kind "PodMonitor" in version "monitoring.coreos.com/v1"' in err
        assert "the cluster lacks what a component needs: install that, or leave the component out." in err
        assert names(bare) == []
        for manifest in yaml.safe_load_all(k8s("render", *SUBMIT[1:])[1]):
            bare.put(manifest)
        assert k8s("stop", "faces")[0] == 0
        assert names(bare) == ["persistentvolumeclaims/distgan-runs-faces"]


def test_status(run: ApiServer, k8s: K8s) -> None:
    run.end_pod(run.start_pod(0), 75, "SIGTERM: training was saved at step 20.", "PreemptionByScheduler")
    again, waiting = run.start_pod(0), run.start_pod(1, begins=False)
    code, out, _ = k8s("status", "faces")
    head, _, first, second = out.splitlines()
    assert code == 0
    assert head.startswith("faces: running for ")
    assert head.endswith("; pods: 2 active, 0 succeeded, 1 failed, of 2")
    assert first.split()[:4] == ["0", again, "Running", "machine-0"]
    assert first.endswith("s ago (PreemptionByScheduler): SIGTERM: training was saved at step 20.")
    assert second.split()[:2] == ["1", waiting]
    assert "Pending (Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.)" in second
    run.end_job("Failed", "PodFailurePolicy", "Container train failed with exit code 2")
    assert "(PodFailurePolicy: Container train failed with exit code 2)" in k8s("status")[1]


def test_several_runs_side_by_side(run: ApiServer, k8s: K8s) -> None:
    """Each is found, and stopped, by its name alone."""
    for manifest in yaml.safe_load_all(k8s("render", "--name", "cats", "--gpus-per-node", "0")[1]):
        run.put(manifest)
    assert [line.partition(":")[0] for line in k8s("status")[1].splitlines()] == ["cats", "faces"]
    assert k8s("stop", "cats")[0] == 0
    assert {name for name in names(run) if "cats" in name} == {"persistentvolumeclaims/distgan-runs-cats"}
    assert len([name for name in names(run) if "faces" in name]) == len(SENT)
    assert k8s("status", "cats")[1] == "cats: no Job; the volume distgan-runs-cats is kept\n"


@contextmanager
def following(k8s: K8s, *arguments: str) -> Iterator[Callable[[], Answer]]:
    """`k8s logs` in a thread of its own, which has ended where this ends; yields what gives its answer then."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(k8s("logs", *arguments)))
    thread.start()
    yield lambda: answers[0]
    thread.join(GUARD_SECONDS)


@pytest.mark.parametrize(("end", "code"), [("Complete", 0), ("Failed", 1)])
def test_logs_go_on_from_pod_to_pod(run: ApiServer, k8s: K8s, end: str, code: int) -> None:
    """Of node 0 alone, each line once, while it trains; until the Job has ended, and with its verdict."""
    first = run.start_pod(0)
    run.log(run.start_pod(1), "of another node")
    run.log(first, "step 1")
    with following(k8s, "faces") as answer:
        until(lambda: run.num_following(first) == 1, "nobody follows", GUARD_SECONDS)
        run.log(first, "step 2", "killed")
        run.end_pod(first, 137)
        second = run.start_pod(0, begins=False)
        run.begin(second)
        until(lambda: run.num_following(second) == 1, "nobody follows the second pod", GUARD_SECONDS)
        run.log(second, "step 3")
        run.end_pod(second, int(end == "Failed"))
        run.end_job(end, message="As it is.")
    found, out, err = answer()
    assert out.splitlines() == ["step 1", "step 2", "killed", "step 3"]
    assert found == code
    assert err.endswith(f"distgan.launch: The run has ended: {end}. As it is.\n")


def test_logs_go_on_when_the_server_hangs_up(run: ApiServer, k8s: K8s) -> None:
    """As behind a proxy that ends connections: what was shown is not shown again."""
    pod = run.start_pod(0)
    run.log(pod, "step 1", seconds_ago=10)
    with following(k8s, "faces") as answer:
        until(lambda: run.num_following(pod) == 1, "nobody follows", GUARD_SECONDS)
        run.hang_up()
        until(lambda: run.num_opened(pod) == 2, "nobody follows again", GUARD_SECONDS)
        run.log(pod, "step 2")
        run.end_pod(pod, 0)
        run.end_job("Complete")
    assert answer() == (0, "step 1\nstep 2\n", "distgan.launch: The run has ended: Complete.\n")


def test_logs_of_a_run_that_is_stopped(run: ApiServer, k8s: K8s) -> None:
    pod = run.start_pod(1)
    run.log(pod, "step 1")
    with following(k8s, "faces", "--index", "1") as answer:
        until(lambda: run.num_following(pod) == 1, "nobody follows", GUARD_SECONDS)
        stop = ["kubectl", "delete", "job", "distgan-faces", "--cascade=foreground"]
        subprocess.run(stop, check=True, capture_output=True, timeout=GUARD_SECONDS)
    code, out, err = answer()
    assert (code, out) == (1, "step 1\n")
    assert "The run was stopped." in err
    assert k8s("logs", "faces")[::2] == (
        2,
        "distgan.launch: error: NAME is 'faces', a run without a Job, and so without a log; submit it to go on with it.\n",
    )


def test_logs_that_may_not_be_read(run: ApiServer, k8s: K8s) -> None:
    """They are a right of their own."""
    run.start_pod(0)
    run.forbidden = {"pods/log"}
    code, _, err = k8s("logs", "faces")
    assert (code, err.count("\n")) == (1, 1)
    assert 'User "tester" cannot get resource "pods/log"' in err


def test_metrics(run: ApiServer, k8s: K8s) -> None:
    assert "no pod of index 0 runs" in k8s("metrics", "faces")[1]
    pod = run.start_pod(0)
    code, out, _ = k8s("metrics", "faces", "--namespace", "team")
    assert code == 0
    assert "  http://distgan-faces-{0..1}.distgan-faces.team.svc:{9400..9402}/metrics\n" in out
    assert f"  kubectl --namespace team port-forward pod/{pod} 9400\n  http://127.0.0.1:9400/metrics\n" in out


def test_stop_waits_for_the_pods_and_keeps_the_volume(run: ApiServer, k8s: K8s) -> None:
    """And takes away what the pods need only when they are gone: they still talk to each other while they save."""
    run.start_pod(0)
    run.pod_end_seconds = 1.5
    code, _, err = k8s("stop", "faces")
    assert code == 0, err
    assert run.requests[0] == "DELETE jobs"
    assert run.num_pods_then == [1] + [0] * (len(run.requests) - 1)
    assert names(run) == ["persistentvolumeclaims/distgan-runs-faces"]
    assert "Its pods have 180 s to save." in err
    assert "To delete what was learnt: kubectl delete persistentvolumeclaim/distgan-runs-faces" in err


def test_what_a_dry_run_of_stop_prints_does_the_same(run: ApiServer, k8s: K8s) -> None:
    """But for the kinds that this cluster has not."""
    code, out, _ = k8s("stop", "faces", "--dry-run")
    assert (code, run.requests) == (0, [])
    commands = out.splitlines()
    for command in commands[:2]:
        subprocess.run(shlex.split(command), check=True, timeout=GUARD_SECONDS)
    assert names(run) == ["persistentvolumeclaims/distgan-runs-faces"]
    assert len(commands) == 4


@pytest.mark.parametrize("command", [("status",), ("stop", "faces"), SUBMIT])
def test_no_permission(server: ApiServer, k8s: K8s, command: tuple[str, ...]) -> None:
    server.forbidden = {"jobs"}
    code, _, err = k8s(*command)
    assert code == 1
    assert 'jobs.batch is forbidden: User "tester" cannot ' in err
    assert "log in as someone who may, or give a --namespace in which you may." in err
    assert names(server) == []


def test_a_queue_of_kueue(server: ApiServer, k8s: K8s) -> None:
    assert k8s(*SUBMIT, "--queue", "night")[0] == 0
    assert server.job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert server.job()["spec"]["suspend"] is True


def test_no_server(k8s: K8s, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # and not listened at
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test"}
        config["clusters"] = [{"name": "test", "cluster": {"server": f"http://{address}"}}]
        config["contexts"] = [{"name": "test", "context": {"cluster": "test"}}]
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        code, _, err = k8s("status")
    assert (code, err.count("\n")) == (1, 1)
    assert f"The connection to the server {address} was refused" in err
    assert "check --context, and that the cluster can be reached from here." in err


def test_a_context_that_is_not_there(server: ApiServer, k8s: K8s) -> None:
    code, _, err = k8s("status", "--context", "nope")
    assert code == 2
    assert "give --context one that `kubectl config get-contexts` lists." in err


def test_a_namespace_that_is_not_there(server: ApiServer, k8s: K8s) -> None:
    code, _, err = k8s(*SUBMIT, "--namespace", "nowhere")
    assert code == 2
    assert 'namespaces "nowhere" not found; give --namespace one that there is, or make it (kubectl create namespace NAME).' in err
    assert names(server) == []


def test_a_run_that_is_not_there(server: ApiServer, k8s: K8s) -> None:
    code, _, err = k8s("logs", "nobody", "--namespace", "team")
    assert code == 2
    assert "NAME is 'nobody', but there is no such run in namespace 'team'; give --namespace, or one that `status` lists." in err
    assert k8s("status")[::2] == (0, "distgan.launch: There are no runs in this namespace.\n")


def test_a_volume_that_one_machine_may_use(run: ApiServer, k8s: K8s) -> None:
    """It is there from another sitting, and stays as it is."""
    del run.objects["jobs", "distgan-faces"]
    claim = run.objects["persistentvolumeclaims", "distgan-runs-faces"]
    claim["spec"]["accessModes"] = ["ReadWriteOnce"]
    code, _, err = k8s(*SUBMIT)
    assert code == 0
    assert "Warning: the volume distgan-runs-faces is ReadWriteOnce, so that pods on other machines may wait for ever;" in err
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_the_stand_in_is_strict(server: ApiServer, tmp_path: Path) -> None:
    """It says what it does not know, refuses to change what is immutable, and lets nobody take another's fields."""

    def refusal(sent: dict[str, Any], *words: str) -> str:
        done = subprocess.run(
            ["kubectl", *words, "--filename", "-"], input=json.dumps(sent), capture_output=True, text=True, timeout=GUARD_SECONDS
        )
        return done.stderr if done.returncode else ""

    apply = ("apply", "--server-side", "--field-manager")
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "distgan-runs"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    assert refusal(claim, *apply, "distgan") == ""
    larger = claim["spec"] | {"resources": {"requests": {"storage": "2Gi"}}}
    assert refusal(claim | {"spec": larger}, *apply, "distgan") == ""
    assert "field is immutable" in refusal(claim | {"spec": larger | {"accessModes": ["ReadWriteMany"]}}, *apply, "distgan")
    assert "conflict with" in refusal(claim, *apply, "another")
    assert "the stand-in does not know PUT" in refusal(claim, "replace")
