"""How runs are: their Jobs, and for each index its newest pod and how the last one ended."""

from distgan.launch.kubernetes.runs import Pod, Run, age, condition, ended

_HEAD = ("INDEX", "POD", "PHASE", "NODE", "AGE", "LAST END")


def describe(run: Run) -> str:
    """A line about the run, and a table of its pods."""
    lines = [f"{run.name}: {_state(run)}"]
    if run.pods:
        rows = [_HEAD, *(_row([pod for pod in run.pods if pod.index == index]) for index in sorted({pod.index for pod in run.pods}))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
        lines += [
            "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in rows
        ]
    return "\n".join(lines)


def _state(run: Run) -> str:
    if run.job is None:
        return f"no Job; the volume {' and '.join(run.volumes)} is kept" if run.volumes else "no Job"
    status = run.job.get("status", {})
    end = ended(run.job)
    if end is not None:
        state = f"{end['type']} {age(end['lastTransitionTime'])} ago" + _because(end)
    elif "deletionTimestamp" in run.job["metadata"]:
        state = "is being stopped"
    elif failing := condition(run.job, "FailureTarget", "True"):
        state = "is failing" + _because(failing)
    elif suspended := condition(run.job, "Suspended", "True"):
        state = "suspended" + _because(suspended)
    else:
        state = f"running for {age(run.job['metadata']['creationTimestamp'])}"
    counts = ", ".join(f"{status.get(name, 0)} {name}" for name in ("active", "succeeded", "failed"))
    return f"{state}; pods: {counts}, of {run.job['spec'].get('completions', 1)}"


def _because(found: dict[str, str]) -> str:
    texts = ": ".join(found[key] for key in ("reason", "message") if found.get(key))
    return f" ({texts})" if texts else ""


def _row(pods: list[Pod]) -> tuple[str, ...]:
    """Of an index, its oldest pod first."""
    pod = pods[-1]
    phase = f"{pod.phase} ({pod.waits_for})" if pod.waits_for else pod.phase
    return str(pod.index), pod.name, phase, pod.machine or "-", age(pod.manifest["metadata"]["creationTimestamp"]), _last_end(pods)


def _last_end(pods: list[Pod]) -> str:
    """How the newest of them that has ended did."""
    pod = next((pod for pod in reversed(pods) if pod.has_ended), None)
    if pod is None:
        return "-"
    end, status = pod.end or {}, pod.manifest["status"]
    code = f"exit code {end['exitCode']}" if "exitCode" in end else status.get("reason", "ended")
    when = f", {age(end['finishedAt'])} ago" if end.get("finishedAt") else ""
    message = end.get("message") or status.get("message") or ""
    return f"{code}{when}" + (f" ({pod.disruption})" if pod.disruption else "") + (f": {' '.join(message.split())}" if message else "")
