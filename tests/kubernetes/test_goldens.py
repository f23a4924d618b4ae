"""What is rendered, line by line, so that a change of it is seen: DISTGAN_RENEW_GOLDENS=1 pytest tests/kubernetes/test_goldens.py"""

import os
from pathlib import Path

import pytest

from tests.kubernetes.rendering import COMPONENTS, K8S, OPERATORS, OVERLAYS, rendered_text, write_kustomization
from tests.tools import missing

pytestmark = pytest.mark.skipif(bool(missing("kubectl")), reason="no kubectl here")

GOLDENS = Path(__file__).with_name("goldens")
NAMES = [*OVERLAYS, *OPERATORS, "components"]
CHANGING = [component for component in COMPONENTS if component != "monitoring"]  # which adds what lies there as it is, and changes nothing


@pytest.mark.parametrize("name", NAMES)
def test_it_is_rendered_as_before(name: str, tmp_path: Path) -> None:
    if name in OVERLAYS:
        text = rendered_text(K8S / "overlays" / name)
    elif name in OPERATORS:
        text = rendered_text(K8S / "operators" / name)
    else:
        write_kustomization(tmp_path, "multi-node", [f"components/{component}" for component in CHANGING])
        text = rendered_text(tmp_path)
    golden = GOLDENS / f"{name}.yaml"
    if os.environ.get("DISTGAN_RENEW_GOLDENS"):
        golden.write_text(text)
    assert text == golden.read_text(), "renew it if this is meant: DISTGAN_RENEW_GOLDENS=1 pytest tests/kubernetes/test_goldens.py"


def test_there_is_no_golden_of_nothing() -> None:
    assert sorted(path.stem for path in GOLDENS.iterdir()) == sorted(NAMES)


def test_trainer_is_told_of_the_runtime_before_the_job() -> None:
    """It refuses a TrainJob whose TrainingRuntime is not there; kubectl applies in this order."""
    kinds = [line.removeprefix("kind: ") for line in (GOLDENS / "trainjob.yaml").read_text().splitlines() if line.startswith("kind: ")]
    assert kinds[-2:] == ["TrainingRuntime", "TrainJob"]
