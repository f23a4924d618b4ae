"""Pods of a rendered Job as hardened containers on this machine, each in a network namespace of its own. Needs root, iproute2 and runc.

What a kubelet would do with the manifest is done with it: its command, arguments, environment, user, capabilities, read-only root, volumes,
memory limit and /dev/shm; names resolve as by the headless Service, in a file that tests may fill later. What there is no engine for is
the image: the container sees this machine's programs, and no other files of it.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from tests.kubernetes.rendering import num_bytes, of_kind

PROJECT = Path(__file__).parents[2]
DOMAIN = "svc.cluster.local"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/passwd", "/etc/ssl", "/etc/alternatives")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Cluster:
    """The network, the volumes and the pods of one Job."""

    def __init__(self, directory: Path, manifests: list[dict[str, Any]], namespace: str = "team") -> None:
        self.directory, self.manifests, self.namespace = directory, manifests, namespace
        self.job = of_kind(manifests, "Job")
        self.spec = self.job["spec"]
        self.name = self.job["metadata"]["name"]
        self._bridge = f"dg{os.getpid() % 100000}"
        self._network = f"198.18.{os.getpid() % 256}"  # of the addresses that RFC 2544 keeps for tests
        self._number = 0
        self.pods: list[Pod] = []
        for volume in self.spec["template"]["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                self._own(self.directory / "volumes" / volume["name"])
            elif "configMap" in volume:
                path = self.directory / "volumes" / volume["name"]
                path.mkdir(parents=True)
                for name, content in of_kind(manifests, "ConfigMap")["data"].items():
                    (path / name).write_text(content)

    def __enter__(self) -> "Cluster":
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "address", "add", f"{self._network}.254/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods:
            pod.remove()
        run("ip", "link", "delete", self._bridge)

    @property
    def runs(self) -> Path:
        """What lies on the volume of runs."""
        return self.directory / "volumes" / "runs"

    def start(self, index: int, names_known: bool = True) -> "Pod":
        """A new pod for this index; names_known: whether all pods' names already resolve in it."""
        self._number += 1
        pod = Pod(self, index, self._number)
        self.pods.append(pod)
        pod.start(names_known)
        return pod

    def start_all(self) -> list["Pod"]:
        """As the Job does: a pod for each index."""
        return [self.start(index) for index in range(self.spec["completions"])]

    def address(self, index: int) -> str:
        """Of the pod of this index; it keeps it, other than a real one, as names are what counts."""
        return f"{self._network}.{index + 1}"

    def full_name(self, index: int) -> str:
        """As the headless Service publishes it."""
        return f"{self.name}-{index}.{self.spec['template']['spec']['subdomain']}.{self.namespace}.{DOMAIN}"

    def action(self, code: int) -> str:
        """What the Job's podFailurePolicy says of a container that ended so: FailJob, Ignore, or Count if nothing."""
        for rule in self.spec["podFailurePolicy"]["rules"]:
            on_codes = rule.get("onExitCodes")
            if on_codes and (code in on_codes["values"]) == (on_codes["operator"] == "In"):
                return rule["action"]
        return "Count"

    def _own(self, path: Path) -> None:
        context = self.spec["template"]["spec"]["securityContext"]
        path.mkdir(parents=True)
        os.chown(path, 0, context["fsGroup"])
        path.chmod(0o2775)


class Pod:
    """A container, in a network namespace of its own."""

    def __init__(self, cluster: Cluster, index: int, number: int) -> None:
        self.cluster, self.index = cluster, index
        self._spec = cluster.spec["template"]["spec"]
        self._id = f"{cluster._bridge}-{number}"
        self._link = f"{self._id}v"
        self._bundle = cluster.directory / "pods" / str(number)
        self._hosts = self._bundle / "hosts"
        self.message = self._bundle / "termination-log"
        self.log = self._bundle / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, names_known: bool) -> None:
        """Make the namespace and the files, and start the container."""
        self._bundle.mkdir(parents=True)
        self._connect()
        own = self.cluster.full_name(self.index)
        self._hosts.write_text(f"127.0.0.1 localhost\n{self.cluster.address(self.index)} {own} {own.partition('.')[0]}\n")
        if names_known:
            self.learn_names()
        self.message.touch()
        self.message.chmod(0o666)
        (self._bundle / "config.json").write_text(json.dumps(self._config()))
        with open(self.log, "wb") as log:
            command = ["runc", "run", "--bundle", str(self._bundle), self._id]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def learn_names(self) -> None:
        """From now on the names of all pods resolve here. Written into the same file, which is mounted."""
        with open(self._hosts, "a") as hosts:
            for index in range(self.cluster.spec["completions"]):
                if index != self.index:
                    hosts.write(f"{self.cluster.address(index)} {self.cluster.full_name(index)}\n")

    def kill(self, name: str) -> None:
        """Send a signal to process 1."""
        run("runc", "kill", self._id, name)

    def wait(self, timeout_seconds: float) -> int:
        """The exit code of process 1."""
        assert self._process is not None
        return self._process.wait(timeout_seconds)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def remove(self) -> None:
        """Nothing of it is left."""
        subprocess.run(["runc", "delete", "--force", self._id], capture_output=True)
        if self._process is not None:
            self._process.wait(30)
        subprocess.run(["ip", "link", "delete", self._link], capture_output=True)  # connections keep a namespace for a minute
        subprocess.run(["ip", "netns", "delete", self._id], capture_output=True)

    def _connect(self) -> None:
        address = f"{self.cluster.address(self.index)}/24"
        run("ip", "netns", "add", self._id)
        run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self._id)
        run("ip", "link", "set", self._link, "master", self.cluster._bridge, "up")
        for command in (["address", "add", address, "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            run("ip", "-netns", self._id, *command)

    def _config(self) -> dict[str, Any]:
        """The container as the OCI runtime specification describes it."""
        (container,) = self._spec["containers"]
        context, environment = self._spec["securityContext"], {entry["name"]: entry["value"] for entry in container["env"]}
        arguments = [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], argument) for argument in container["args"]]
        environment |= {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "JOB_COMPLETION_INDEX": str(self.index),  # as the Job controller adds it
            "PYTHONPATH": str(PROJECT),
        }
        assert not container["securityContext"]["capabilities"].get("add")
        return {
            "ociVersion": "1.0.2",
            "hostname": self.cluster.full_name(self.index).partition(".")[0],
            "root": {"path": str(self._root()), "readonly": container["securityContext"]["readOnlyRootFilesystem"]},
            "process": {
                "user": {"uid": context["runAsUser"], "gid": context["runAsGroup"], "additionalGids": [context["fsGroup"]]},
                "args": [*container["command"], *arguments],
                "env": [f"{name}={value}" for name, value in environment.items()],
                "cwd": "/",
                "noNewPrivileges": not container["securityContext"]["allowPrivilegeEscalation"],
                "capabilities": {},
            },
            "mounts": [*_KERNEL_MOUNTS, *self._volumes(container), *_programs(), *self._single_files()],
            "linux": {
                "namespaces": [
                    *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                    {"type": "network", "path": f"/var/run/netns/{self._id}"},
                ],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq"],
                "resources": {"memory": {"limit": num_bytes(container["resources"]["limits"]["memory"])}},
            },
        }

    def _root(self) -> Path:
        """An empty root, on which everything is mounted."""
        root = self._bundle / "root"
        root.mkdir()
        return root

    def _volumes(self, container: dict[str, Any]) -> list[dict[str, Any]]:
        by_name = {volume["name"]: volume for volume in self._spec["volumes"]}
        mounts = []
        for mount in container["volumeMounts"]:
            volume = by_name[mount["name"]]
            if "emptyDir" in volume:
                # A kubelet measures the size of those on disk and evicts; here all of them are in memory, and bounded at once.
                size = num_bytes(volume["emptyDir"]["sizeLimit"])
                options = ["nosuid", "nodev", "mode=2777", f"size={size}", f"gid={self._spec['securityContext']['fsGroup']}"]
                mounts.append({"destination": mount["mountPath"], "type": "tmpfs", "source": "tmpfs", "options": options})
            else:
                options = ["rbind", "ro" if mount.get("readOnly") else "rw"]
                source = self.cluster.directory / "volumes" / mount["name"]
                mounts.append({"destination": mount["mountPath"], "type": "bind", "source": str(source), "options": options})
        return mounts

    def _single_files(self) -> list[dict[str, Any]]:
        files = {"/etc/hosts": (self._hosts, "ro"), "/dev/termination-log": (self.message, "rw")}
        return [
            {"destination": inside, "type": "bind", "source": str(path), "options": ["bind", mode]}
            for inside, (path, mode) in files.items()
        ]


_KERNEL_MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]


def _programs() -> list[dict[str, Any]]:
    """Python, its packages and the project, read-only, where they are on this machine."""
    python = Path(os.path.realpath(sys.executable)).parents[1]
    places = [*_SYSTEM, str(python), str(Path(sysconfig.get_path("purelib")).parents[2]), str(PROJECT)]
    existing = [place for place in dict.fromkeys(places) if os.path.exists(place)]
    return [{"destination": place, "type": "bind", "source": place, "options": ["rbind", "ro"]} for place in existing]
