"""`launch k8s render`: what it prints is taken by API servers, agrees with itself, and holds the run's settings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from distgan import __version__
from distgan.cli import parse_command
from distgan.launch.__main__ import main, parse
from distgan.launch.kubernetes.stop import KINDS, OF_OPERATORS
from tests.kubernetes.api_objects import BUILT_IN, OF_PROMETHEUS
from tests.kubernetes.rendering import K8S, Manifests, num_bytes, of_kind, write_kustomization
from tests.kubernetes.schemas import read_once, releases, validate
from tests.kubernetes.test_manifests import check_names, config_of, container_of, environment_of, pod_of
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

Render = Callable[..., Manifests]

SETTINGS = ["--model.name", "mlp", "--train.batch_size", "768", "--data.url", "s3://faces/{000..007}.tar", "--loss.name", "hinge"]
LABELS = {
    "app.kubernetes.io/name": "distgan",
    "app.kubernetes.io/instance": "faces",
    "app.kubernetes.io/component": "training",
    "app.kubernetes.io/version": __version__,
    "app.kubernetes.io/managed-by": "distgan",
}


@pytest.fixture
def rendered(capsys: pytest.CaptureFixture[str]) -> Render:
    """A function: options and settings -> manifests."""

    def render(*arguments: str) -> Manifests:
        code, (out, err) = main(["k8s", "render", *arguments]), capsys.readouterr()
        assert code == 0, err
        return list(yaml.safe_load_all(out))

    return render


@pytest.mark.parametrize(
    ("options", "nodes", "num_ranks", "sets"),
    [
        ("", "1", 8, ""),
        ("--nodes 4 --gpus-per-node 4 --component monitoring", "4", 4, ""),
        ("--nodes 2:4 --component spot --queue night", "2:4", 8, "--checkpoint.every_kimg 5"),
        ("--nodes 2:3 --gpus-per-node 0 --cpus 4 --memory 16Gi", "2:3", 2, ""),
        ("--nodes 2 --gpus-per-node 16 --cpus 64 --memory 512Gi", "2", 16, ""),
        (
            "--nodes 8 --overlay deepspeed --component s3-data",
            "8",
            8,
            "--engine.name deepspeed --engine.zero_stage 2 --data.cache_gigabytes 180",
        ),
        ("--gpus-per-node 0", "1", 2, ""),
        ("--nodes 4 --gpus-per-node 0 --ranks-per-node 4 --cpus 4500m", "4", 4, ""),
        ("--overlay cpu-smoke --gpus-per-node 1", "1", 1, ""),
    ],
)
def test_what_is_rendered(rendered: Render, tmp_path: Path, options: str, nodes: str, num_ranks: int, sets: str) -> None:
    """sets: what the overlay and its components set, as arguments."""
    asked = dict(zip(options.split()[::2], options.split()[1::2], strict=True))
    image = f"registry/distgan:1@sha256:{'0123' * 16}"
    manifests = rendered(*options.split(), "--name", "faces", "--namespace", "team", "--image", image, *SETTINGS)
    possible = releases(manifests)
    with read_once():
        for manifest in manifests:
            for release in (possible[0], possible[-1]):
                validate(manifest, release)
    check_names(manifests)
    job, container = of_kind(manifests, "Job"), container_of(manifests)
    assert job["metadata"]["name"] == "distgan-faces"
    assert job["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") == asked.get("--queue")
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"team"}
    assert all(LABELS.items() <= manifest["metadata"]["labels"].items() for manifest in [*manifests, job["spec"]["template"]])
    assert container["image"] == image
    assert environment_of(manifests)["NODES"] == nodes
    if nodes != "1":
        assert of_kind(manifests, "PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]

    gpus, ranks = container["resources"]["limits"].get("nvidia.com/gpu"), parse(["worker", *container["args"]]).ranks_per_node
    assert (gpus, ranks) == ((None, str(num_ranks)) if asked.get("--gpus-per-node") == "0" else (num_ranks, "auto"))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    of_ranks = {"metrics": 9400} | {f"metrics-{rank}": 9400 + rank for rank in range(1, num_ranks)}
    assert ports == of_ranks | {"rendezvous": 29500}
    (let_in,) = [port for rule in of_kind(manifests, "NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", [])]
    assert let_in["port"] <= min(of_ranks.values()) <= max(of_ranks.values()) <= let_in["endPort"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert requests["cpu"] == asked.get("--cpus", requests["cpu"])
    assert requests["memory"] == limits["memory"] == asked.get("--memory", limits["memory"])
    (shared,) = [volume["emptyDir"] for volume in pod_of(manifests)["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
    assert num_bytes(shared["sizeLimit"]) < num_bytes(limits["memory"])

    given = parse_command([*sets.split(), *SETTINGS]).config
    of_pods = {"run": given.run.model_copy(update={"dir": "/runs/run"}), "metrics": given.metrics.model_copy(update={"host": "0.0.0.0"})}  # noqa: S104
    assert config_of(manifests, tmp_path) == given.model_copy(update=of_pods)


def test_without_a_namespace_it_is_for_kubectl_to_say(rendered: Render) -> None:
    assert not any("namespace" in manifest["metadata"] for manifest in rendered())


def test_settings_win_over_those_of_overlays(rendered: Render, tmp_path: Path) -> None:
    """Also over those that stand among the arguments of the container, where they would win over any recipe."""
    config = config_of(rendered("--overlay", "deepspeed", "--engine.zero_stage", "1", "--train.batch_size", "128"), tmp_path)
    assert (config.engine.name, config.engine.zero_stage, config.train.batch_size) == ("deepspeed", 1, 128)


def test_settings_of_deepspeed_travel(rendered: Render, tmp_path: Path) -> None:
    settings = '{"zero_optimization": {"overlap_comm": true}}'
    (tmp_path / "buckets.json").write_text(settings)
    (tmp_path / "etc").mkdir()
    flags = ["--engine.name", "deepspeed", "--engine.deepspeed_config", str(tmp_path / "buckets.json")]
    manifests = rendered(*flags)
    assert of_kind(manifests, "ConfigMap")["data"]["deepspeed.json"] == settings
    recipe = yaml.safe_load(of_kind(manifests, "ConfigMap")["data"]["recipe.yaml"])
    assert recipe["engine"]["deepspeed_config"] == "/etc/distgan/deepspeed.json"


def test_a_kustomization_of_the_users_own(rendered: Render, tmp_path: Path) -> None:
    """Its nodes, its recipe and its namespace are taken, the settings of the command win over that, and its names lead to each other."""
    own = tmp_path / "cats"
    own.mkdir()
    (own / "recipe.yaml").write_text("train: {batch_size: 48, total_kimg: 7}\nmetrics: {log_every_kimg: 3}\n")
    several = yaml.safe_load((K8S / "overlays" / "multi-node" / "kustomization.yaml").read_text())
    write_kustomization(
        own,
        "single-node",
        namePrefix="my-",
        namespace="cats",
        configMapGenerator=[{"name": "distgan-recipe", "behavior": "merge", "files": ["recipe.yaml"]}],
        patches=[{"target": {"kind": "Job"}, "patch": '[{"op": "replace", "path": "/spec/completions", "value": 3}]'}],
        replacements=several["replacements"],
    )
    manifests = rendered("--overlay", str(own), "--train.total_kimg", "9", "--gpus-per-node", "2")
    check_names(manifests)
    assert environment_of(manifests)["NODES"] == "3"
    assert of_kind(manifests, "Job")["metadata"]["name"] == "my-distgan-cats"
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"cats"}
    (tmp_path / "etc").mkdir()
    config = config_of(manifests, tmp_path / "etc")
    assert (config.train.batch_size, config.train.total_kimg, config.metrics.log_every_kimg) == (48, 9, 3)


def test_stop_knows_every_kind() -> None:
    """That the base, a component or an overlay brings: what it does not know would stay in the cluster."""
    texts = [path.read_text() for folder in ("base", "overlays", "components") for path in sorted((K8S / folder).rglob("*.yaml"))]
    kinds = {found["kind"] for text in texts for found in yaml.safe_load_all(text) if found and "metadata" in found} | {"ConfigMap"}
    names = {resource.kind: resource.qualified for resource in (*BUILT_IN, *OF_PROMETHEUS)}
    assert {names[kind] for kind in kinds - {"Job", "PersistentVolumeClaim"}} == {*KINDS, *OF_OPERATORS}
