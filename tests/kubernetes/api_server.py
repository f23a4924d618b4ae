"""As much of an API server as kubectl needs to apply, compare, list, watch, follow and delete what the launcher sends.

It is no cluster: there is no scheduler, no controller and no admission but what stands here. What it is strict about is what is sent: every
object is held against the schemas of Kubernetes, misspelt fields are refused, what is immutable stays as it is, and a request that this
file does not know is an error and not an empty answer. Pods come and go as the test says.
"""

import copy
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator

import yaml

from tests.kubernetes.api_objects import BUILT_IN, OF_PROMETHEUS, Object, Refusal, Resource, check, is_selected, now, refuse_conflict

_GUARD_SECONDS = 60.0  # after which a watch or a log ends by itself


class ApiServer:
    """What a server knows and does; api_http.py listens for it. There is one namespace, `team`.

    Args:
        resources: those that it has, beside the built-in ones.
    """

    def __init__(self, resources: tuple[Resource, ...] = OF_PROMETHEUS) -> None:
        self.resources = (*BUILT_IN, *resources)
        self.objects: dict[tuple[str, str], Object] = {}  # by (resource, name); all but namespaces are in `team`
        self.requests: list[str] = []  # 'PATCH jobs' and so on, without what only looks
        self.num_pods_then: list[int] = []  # when each of them came
        self.forbidden: set[str] = set()  # 'jobs', 'pods/log': what this user may not touch
        self.pod_end_seconds = 0.3  # from SIGTERM to the end of a pod
        self._logs: dict[str, list[tuple[float, str]]] = {}
        self._following: Counter[str] = Counter()
        self._opened: Counter[str] = Counter()
        self._num_hang_ups = 0
        self._events: list[tuple[str, str, Object]] = []  # type, resource, object
        self._changed = threading.Condition(threading.RLock())
        self.create(self._resource("namespaces"), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})

    # What a test does in the place of controllers and kubelets

    def of_kind(self, kind: str) -> list[Object]:
        with self._changed:
            return [found for found in self.objects.values() if found["kind"] == kind]

    def job(self) -> Object:
        """The only one."""
        (job,) = self.of_kind("Job")
        return job

    def start_pod(self, index: int, *, begins: bool = True) -> str:
        """A pod of the Job, which begins or waits for a machine; returns its name."""
        job = self.job()
        template = copy.deepcopy(job["spec"]["template"])
        name = f"{job['metadata']['name']}-{index}-{secrets.token_hex(3)[:5]}"
        labels = template["metadata"]["labels"] | {
            "batch.kubernetes.io/job-name": job["metadata"]["name"],
            "batch.kubernetes.io/job-completion-index": str(index),
        }
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}]},
            "spec": template["spec"],
        }
        with self._changed:
            self.create(self._resource("pods"), pod)
            self._logs[name] = []
            if begins:
                self.begin(name)
            else:
                message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
                unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
                self._update("pods", self.objects["pods", name], {"phase": "Pending", "conditions": [unscheduled]})
        return name

    def begin(self, name: str) -> None:
        """A pod is scheduled, and its container runs."""
        with self._changed:
            pod = self.objects["pods", name]
            pod["spec"]["nodeName"] = f"machine-{pod['metadata']['labels']['batch.kubernetes.io/job-completion-index']}"
            self.set_state(name, "Running", {"running": {"startedAt": now()}})

    def end_pod(self, name: str, exit_code: int, message: str = "", disruption: str = "") -> None:
        """Its container ends; disruption: the cluster's reason to take it away."""
        end = {"exitCode": exit_code, "message": message, "finishedAt": now(), "reason": "Error" if exit_code else "Completed"}
        conditions = [{"type": "DisruptionTarget", "status": "True", "reason": disruption}] if disruption else []
        self.set_state(name, "Failed" if exit_code else "Succeeded", {"terminated": end}, conditions)

    def set_state(self, name: str, phase: str, state: Object, conditions: list[Object] | None = None) -> None:
        """Of a pod and of its container."""
        container = {"name": "train", "state": state, "ready": "running" in state, "restartCount": 0, "image": "distgan", "imageID": ""}
        with self._changed:
            self._update(
                "pods", self.objects["pods", name], {"phase": phase, "conditions": conditions or [], "containerStatuses": [container]}
            )

    def log(self, pod: str, *lines: str, seconds_ago: float = 0.0) -> None:
        """Lines of its container."""
        with self._changed:
            self._logs[pod] += [(time.time() - seconds_ago, line) for line in lines]
            self._changed.notify_all()

    def hang_up(self) -> None:
        """End the logs that are being read, whatever their pods do."""
        with self._changed:
            self._num_hang_ups += 1
            self._changed.notify_all()

    def end_job(self, kind: str, reason: str = "", message: str = "") -> None:
        """By the condition Complete or Failed."""
        with self._changed:
            job = self.job()
            end = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
            self._update("jobs", job, job.get("status", {}) | {"conditions": [end]})

    # The API

    def put(self, sent: Object) -> None:
        """As if it had been sent before."""
        resource = next(found for found in self.resources if (found.api_version, found.kind) == (sent["apiVersion"], sent["kind"]))
        self.apply(resource, sent["metadata"]["name"], sent, "distgan", dry_run=False)

    def create(self, resource: Resource, sent: Object) -> Object:
        with self._changed:
            stored = self._new(sent)
            self._store(resource.name, stored, "ADDED")
        return stored

    def apply(self, resource: Resource, name: str, sent: Object, manager: str, dry_run: bool) -> Object:
        """Server-side apply, where a manager owns all of what it sent: what it sends no more goes."""
        check(sent)
        with self._changed:
            live = self.objects.get((resource.name, name))
            if live is None:
                merged = self._new(sent)
            else:
                refuse_conflict(resource, live, sent, manager)
                merged = copy.deepcopy(sent)
                kept = ("uid", "creationTimestamp", "resourceVersion", "generation")
                merged["metadata"] |= {key: live["metadata"][key] for key in kept}
                if "status" in live:
                    merged["status"] = live["status"]
                if merged.get("spec") != live.get("spec"):
                    merged["metadata"]["generation"] += 1
            merged["metadata"]["managedFields"] = [{"manager": manager, "operation": "Apply", "apiVersion": resource.api_version}]
            if not dry_run:
                self._store(resource.name, merged, "ADDED" if live is None else "MODIFIED")
            return merged

    def delete(self, resource: Resource, name: str, propagation: str) -> Object:
        """At once, but for a Job in the foreground: it waits for its pods, which have some time to end."""
        with self._changed:
            found = self.get(resource, name)
            if resource.name == "jobs" and propagation == "Foreground":
                for stored in (found, *self.of_kind("Pod")):
                    stored["metadata"]["deletionTimestamp"] = now()
                threading.Thread(target=self._end_all, args=(found,), daemon=True).start()
            else:
                self._remove(resource.name, found)
            return found

    def get(self, resource: Resource, name: str) -> Object:
        with self._changed:
            if (resource.name, name) not in self.objects:
                raise Refusal(404, "NotFound", f'{resource.qualified} "{name}" not found')
            return self.objects[resource.name, name]

    def list(self, resource: Resource, query: dict[str, str]) -> Object:
        with self._changed:
            items = [found for (name, _), found in self.objects.items() if name == resource.name and is_selected(found, query)]
            metadata = {"resourceVersion": str(len(self._events))}
            return {"apiVersion": resource.api_version, "kind": f"{resource.kind}List", "metadata": metadata, "items": copy.deepcopy(items)}

    def watch(self, resource: Resource, query: dict[str, str]) -> Iterator[bytes]:
        """What happens from a resourceVersion on."""
        seen, deadline = int(query.get("resourceVersion") or 0), time.monotonic() + _GUARD_SECONDS
        while time.monotonic() < deadline:
            with self._changed:
                self._changed.wait_for(lambda: len(self._events) > seen, timeout=0.5)  # noqa: B023 - called at once
                events = copy.deepcopy(self._events[seen:])
            seen += len(events)
            for kind, name, found in events:
                if name == resource.name and is_selected(found, query):
                    yield json.dumps({"type": kind, "object": found}).encode() + b"\n"

    def log_lines(self, name: str, query: dict[str, str]) -> Iterator[bytes]:
        """Of a pod; follow: until its container has ended."""
        since = yaml.safe_load(query["sinceTime"]).timestamp() if "sinceTime" in query else 0.0
        shown, hang_ups, deadline = 0, self._num_hang_ups, time.monotonic() + _GUARD_SECONDS
        self._opened[name] += 1
        self._following[name] += 1
        while time.monotonic() < deadline and self._num_hang_ups == hang_ups:
            with self._changed:
                lines, has_ended = self._logs[name][shown:], self._has_ended(name)
                if not lines and not has_ended and "follow" in query:
                    self._changed.wait(0.5)
            shown += len(lines)
            yield from (f"{line}\n".encode() for moment, line in lines if moment >= since)
            if not lines and (has_ended or "follow" not in query):
                break
        self._following[name] -= 1

    def num_following(self, name: str) -> int:
        """How many read the log of a pod now."""
        return self._following[name]

    def num_opened(self, name: str) -> int:
        """How many have begun to."""
        return self._opened[name]

    def _has_ended(self, name: str) -> bool:
        pod = self.objects.get(("pods", name))
        return pod is None or pod["status"]["phase"] in ("Succeeded", "Failed")

    def _resource(self, name: str) -> Resource:
        return next(resource for resource in self.resources if resource.name == name)

    def _new(self, sent: Object) -> Object:
        check(sent)
        made = copy.deepcopy(sent)
        made["metadata"] |= {"uid": secrets.token_hex(16), "creationTimestamp": now(), "resourceVersion": "1", "generation": 1}
        if made["kind"] != "Namespace":
            made["metadata"]["namespace"] = "team"
        return made

    def _update(self, resource: str, stored: Object, status: Object) -> None:
        check(stored | {"status": status})  # what a test says is held against the schemas, too
        self._store(resource, stored | {"status": status}, "MODIFIED")
        pods = Counter(pod.get("status", {}).get("phase", "Pending") for pod in self.of_kind("Pod"))
        for job in self.of_kind("Job"):
            counts = {"active": pods["Running"] + pods["Pending"], "succeeded": pods["Succeeded"], "failed": pods["Failed"]}
            job["status"] = {**job.get("status", {}), **counts}

    def _store(self, resource: str, found: Object, event: str) -> None:
        self._happened(event, resource, found)
        self.objects[resource, found["metadata"]["name"]] = found

    def _remove(self, resource: str, found: Object) -> None:
        del self.objects[resource, found["metadata"]["name"]]
        self._happened("DELETED", resource, found)

    def _happened(self, event: str, resource: str, found: Object) -> None:
        found["metadata"]["resourceVersion"] = str(len(self._events) + 1)
        self._events.append((event, resource, copy.deepcopy(found)))
        self._changed.notify_all()

    def _end_all(self, job: Object) -> None:
        time.sleep(self.pod_end_seconds)
        with self._changed:
            for pod in self.of_kind("Pod"):
                self._remove("pods", pod)
            self._remove("jobs", job)
