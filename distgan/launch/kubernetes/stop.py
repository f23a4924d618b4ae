"""Take a run out of the cluster, but for its volume: the same submission goes on with it."""

from distgan.launch.kubernetes.kubectl import Kubectl, failure, start
from distgan.launch.kubernetes.runs import Run, selector
from distgan.launch.say import say

# Of the kinds that k8s/ renders; the Job goes before them, for its pods still need them when they save.
KINDS = ("services", "networkpolicies.networking.k8s.io", "configmaps", "serviceaccounts")
OF_OPERATORS = ("podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com")  # which a cluster may lack


def deletions(name: str) -> list[tuple[str, ...]]:
    """The words of kubectl that take a run out, in their order; the last ones are of kinds that a cluster may lack."""
    of_run = ("--selector", selector(name))
    return [
        ("delete", "job", *of_run, "--cascade=foreground", "--wait"),
        *(("delete", kinds, *of_run, "--ignore-not-found") for kinds in (",".join(KINDS), *OF_OPERATORS)),
    ]


def stop(run: Run, kubectl: Kubectl) -> None:
    """Delete its objects, and wait until its pods are gone; raises as `Kubectl.run`."""
    of_job, of_others, *of_operators = deletions(run.name)
    if run.job is not None:
        grace = run.job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        if run.end is None:
            say(f"Its pods have {grace} s to save.")
        kubectl.run(*of_job)
    kubectl.run(*of_others)
    for words in of_operators:
        done = start(kubectl.command(*words))
        if done.returncode and "have a resource type" not in done.stderr:
            raise failure("kubectl delete", done.stderr)
    say(f"Stopped {run.name!r}.")
    for volume in run.volumes:
        delete = kubectl.shown("delete", f"persistentvolumeclaim/{volume}")
        say(f"Its volume is kept, and the same `k8s submit` goes on with it. To delete what was learnt: {delete}")
