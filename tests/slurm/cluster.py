"""A real SLURM on this machine: a controller and two nodes, each in namespaces of its own. Needs root, iproute2, SLURM and MUNGE.

Nothing is shared with a SLURM or MUNGE that this machine may have, and nothing is left: each node is a tree of processes below a process 1
of its own, which ends with the `unshare` that started it. GPUs are there as SLURM counts them; behind them is nothing.
"""

import os
import shlex
import stat
import subprocess
import time
from pathlib import Path

from tests.processes import until

TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
NODES = ("node-0", "node-1")
GUARD_SECONDS = 120
_HEAD = "head"
_GPUS = 8
# A job that is requeued waits for cred_expire seconds before it starts again: 120 by default, at least 5.
_CONFIGURATION = """
ClusterName=test
SlurmctldHost={head}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldLogFile={directory}/{head}.log
SlurmctldPidFile={directory}/{head}.pid
SlurmdLogFile={directory}/%n.log
SlurmdPidFile={directory}/%n.pid
SlurmdSpoolDir={directory}/%n
SlurmdParameters=config_overrides
StateSaveLocation={directory}/{head}
GresTypes=gpu
NodeName={nodes} CPUs=64 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """While this is entered, SLURM runs; its files are in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._bridge = f"sl{os.getpid() % 100000}"
        self._machines = (_HEAD, *NODES)
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            self._connect()
            self._start("munged", self._munged())
            until((self._directory / "munge.socket").exists, "no MUNGE", GUARD_SECONDS)
            self._start(_HEAD, self._on(_HEAD, "slurmctld", "-D", apart=True))
            for node in NODES:
                self._start(node, self._on(node, "slurmd", "-D", "-N", node, apart=True))
            until(lambda: self.is_idle, f"SLURM is not up; see {self._directory}", GUARD_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons:
            daemon.kill()
            daemon.wait()
        for machine in self._machines:
            subprocess.run(["ip", "netns", "delete", self._namespace(machine)], capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True)

    def run(self, *command: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command where jobs are submitted from."""
        return subprocess.run(self._on(_HEAD, *command), cwd=directory, capture_output=True, text=True, timeout=GUARD_SECONDS)

    def job(self, number: str) -> dict[str, str]:
        """What SLURM says of a job, such as JobState, Restarts and ExitCode."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, **values: str) -> None:
        """Until SLURM says these of a job."""

        def reached() -> bool:
            time.sleep(0.3)  # each look is a process
            return values.items() <= self.job(number).items()

        until(reached, f"job {number} does not reach {values}; see {self._directory}", GUARD_SECONDS)

    @property
    def is_idle(self) -> bool:
        """Whether all nodes wait for jobs."""
        time.sleep(0.3)  # each look is a process
        return self.run("sinfo", "--noheader", "--Node", "--format", "%T").stdout.split() == ["idle"] * len(NODES)

    def _configure(self) -> None:
        for machine in self._machines:
            (self._directory / machine).mkdir(parents=True)
        values = {"directory": self._directory, "head": _HEAD, "nodes": ",".join(NODES), "gpus": _GPUS}
        (self._directory / "slurm.conf").write_text(_CONFIGURATION.format(**values))
        # slurmd loads a cgroup plugin even if nothing is to use it, and v1's asks for no file system.
        (self._directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (self._directory / "gres.conf").write_text(f"Name=gpu File={self._directory}/gpu[0-{_GPUS - 1}]\n")
        for gpu in range(_GPUS):
            os.mknod(self._directory / f"gpu{gpu}", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # the null device
        (self._directory / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{self._address(machine)} {machine}\n" for machine in self._machines)
        )
        (self._directory / "munge.key").write_bytes(os.urandom(1024))
        (self._directory / "munge.key").chmod(0o400)

    def _connect(self) -> None:
        """A network that this machine itself has no address in."""
        commands = [f"link add {self._bridge} type bridge", f"link set {self._bridge} up"]
        for number, machine in enumerate(self._machines):
            namespace, link = self._namespace(machine), f"{self._bridge}v{number}"
            commands += [
                f"netns add {namespace}",
                f"link add {link} type veth peer name eth0 netns {namespace}",
                f"link set {link} master {self._bridge} up",
                f"-netns {namespace} address add {self._address(machine)}/24 dev eth0",
                f"-netns {namespace} link set eth0 up",
                f"-netns {namespace} link set lo up",
            ]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=GUARD_SECONDS)

    def _start(self, name: str, command: list[str]) -> None:
        with open(self._directory / f"{name}.out", "wb") as out:
            self._daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT))

    def _munged(self) -> list[str]:
        """One for all, as it knows processes by the kernel, which is one, too."""
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munged.seed"}
        return ["munged", "--foreground", "--force", *(f"--{option}={self._directory / file}" for option, file in files.items())]

    def _on(self, machine: str, *command: str, apart: bool = False) -> list[str]:
        """A command as if on a machine; apart: below a process 1, with which everything below it ends."""
        # Not by `ip netns exec`, which would hide /sys/fs/cgroup. SLURM and gloo find machines by what /etc/hosts says here.
        prepare = f"hostname {machine}; mount --bind {self._directory}/hosts /etc/hosts; export SLURM_CONF={self._directory}/slurm.conf"
        script = f"{prepare}; {shlex.join(command)}; exit $?" if apart else f"{prepare}; exec {shlex.join(command)}"
        alone = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc"] if apart else []
        return ["nsenter", f"--net=/run/netns/{self._namespace(machine)}", "unshare", "--mount", "--uts", *alone, "sh", "-c", script]

    def _namespace(self, machine: str) -> str:
        return f"{self._bridge}-{machine}"

    def _address(self, machine: str) -> str:
        return f"198.18.0.{self._machines.index(machine) + 1}"  # of those that RFC 2544 keeps for tests
