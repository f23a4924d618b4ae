"""Take a run out of the cluster, but for its volume: the same submission goes on with it."""

from distgan.launch.kubernetes.kubectl import Kubectl, failure, start
from distgan.launch.kubernetes.runs import Run, selector
from distgan.launch.say import say

# Of the kinds that k8s/ renders; the Job goes before them, for its pods still need them when they save.
KINDS = ("services", "networkpolicies.networking.k8s.io", "configmaps", "serviceaccounts")
OF_OPERATORS = ("podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com")  # which a cluster may lack


def stop(run: Run, kubectl: Kubectl) -> None:
    """Delete its objects, and wait until its pods are gone; raises as `Kubectl.run`."""
    of_run = ("--selector", selector(run.name))
    if run.job is not None:
        grace = run.job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
        if run.end is None:
            say(f"Its pods have {grace} s to save.")
        kubectl.run("delete", "job", *of_run, "--cascade=foreground", "--wait")
    kubectl.run("delete", ",".join(KINDS), *of_run, "--ignore-not-found")
    for kind in OF_OPERATORS:
        done = start(kubectl.command("delete", kind, *of_run, "--ignore-not-found"))
        if done.returncode and "have a resource type" not in done.stderr:
            raise failure("kubectl delete", done.stderr)
    say(f"Stopped {run.name!r}.")
    for volume in run.volumes:
        delete = kubectl.shown("delete", f"persistentvolumeclaim/{volume}")
        say(f"Its volume is kept, and the same `k8s submit` goes on with it. To delete what was learnt: {delete}")
