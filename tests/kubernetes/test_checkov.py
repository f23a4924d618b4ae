"""checkov has nothing to say about the manifests but what k8s/README.md gives a reason for.

It runs from an environment of its own, as it asks for other versions of what this project needs: python -m venv checkov, checkov/bin/pip
install checkov, and DISTGAN_CHECKOV=checkov/bin/checkov unless it is in the PATH.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.controllers import job_of
from tests.kubernetes.rendering import K8S, OPERATORS, OVERLAYS, Manifests, variant
from tests.kubernetes.schemas import KINDS
from tests.tools import missing

CHECKOV = os.environ.get("DISTGAN_CHECKOV", "checkov")
LACKING = missing("kubectl", CHECKOV)
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"the lint needs {LACKING}")

Findings = set[tuple[str, str]]  # check, kind of the object


def left_open() -> Findings:
    """The table of k8s/README.md: | check | kinds | reason |."""
    rows = re.findall(r"^\| `(CKV\w+)` \| ([\w, ]+) \| .{20,} \|$", (K8S / "README.md").read_text(), re.MULTILINE)
    return {(check, kind) for check, kinds in rows for kind in kinds.split(", ")}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    """What checkov says, by what is named; of an operator's kinds it knows none, so that it gets the Job that they lead to."""
    named: dict[str, Manifests] = {overlay: variant(f"{overlay}+all") for overlay in OVERLAYS}
    named |= {operator: [job_of(variant(f"{operator}:elastic+all"))] for operator in OPERATORS}
    named["planted"] = [job_of(variant("jobset:elastic+all"))]  # made anew at each call, so that it may be changed
    named["planted"][0]["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    directory = tmp_path_factory.mktemp("rendered")
    known = {name: [manifest for manifest in manifests if manifest["kind"] not in KINDS] for name, manifests in named.items()}
    for name, manifests in known.items():
        (directory / f"{name}.yaml").write_text(yaml.safe_dump_all(manifests))
    # Its rules are in it: --skip-download keeps it from asking a server for what it has to say about each of them.
    options = ["--framework", "kubernetes", "--skip-download", "--output", "json", "--quiet", "--compact"]
    done = subprocess.run([CHECKOV, "--directory", str(directory), *options], capture_output=True, text=True, timeout=240)
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["resource_count"] >= sum(map(len, known.values())), "some were not understood"
    found: dict[str, Findings] = {name: set() for name in named}
    for finding in report["results"]["failed_checks"]:
        found[Path(finding["file_path"]).stem].add((finding["check_id"], finding["resource"].partition(".")[0]))
    return found


def test_nothing_is_found_but_what_is_left_open(findings: dict[str, Findings]) -> None:
    assert set().union(*(found for name, found in findings.items() if name != "planted")) == left_open()


def test_a_pod_that_is_not_hardened_would_be_found(findings: dict[str, Findings]) -> None:
    assert findings["planted"] - left_open() == {("CKV_K8S_22", "Job")}
