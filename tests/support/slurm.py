"""A real Slurm on this machine: munged, slurmctld and four slurmd, each a node with one fake GPU.

Two nodes are for the pipeline, two may be drained and killed by tests meanwhile.

Everything listens on 127.0.0.1 on ports of its own and keeps its files in one folder, except the configuration:
jobs find that in /etc/slurm alone. It is written there for the time of the tests, never over somebody else's.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ETC = Path("/etc/slurm")
MARK = "# written by tests/cluster, removed afterwards\n"
PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
NODES, SPARE_NODES = ("gpu1", "gpu2"), ("spare1", "spare2")  # of the partitions `gpu` and `spare`
DEVICES = dict(  # stand for graphics cards; no job opens them
    zip(NODES + SPARE_NODES, ("/dev/null", "/dev/zero", "/dev/full", "/dev/random"), strict=True)
)

# cred_expire: for so long (120 s by default) Slurm keeps a job that it requeues from starting again.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=30
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2,requeue_delay=1
ReturnToService=2
SlurmdTimeout=10
KillWait=30
MinJobAge=900
GresTypes=gpu
{nodes}
PartitionName=gpu Nodes=gpu1,gpu2 Default=YES MaxTime=INFINITE State=UP
PartitionName=spare Nodes=spare1,spare2 MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=12000 Gres=gpu:fake:1"
GRES_CONF = "".join(f"NodeName={node} Name=gpu Type=fake File={file}\n" for node, file in DEVICES.items())
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"


def missing() -> str:
    """What keeps a Slurm from being started here; empty if nothing does. Installs Debian packages as root."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root (it writes /etc/slurm and starts daemons)"
    if any(shutil.which(program) is None for program in PROGRAMS):
        if shutil.which("apt-get") is None:
            return f"{', '.join(PROGRAMS)} are not installed, and this is no Debian to install them on"
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                ["apt-get", *command], check=False, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                return f"apt-get {' '.join(command)} failed: {done.stderr.strip()}"
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(MARK):
        return f"{conf} belongs to another cluster; it is left alone"
    return ""


class Slurm:
    """The running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Write the configuration, start all daemons, wait until both nodes are idle."""
        for name in ("state", "munge", *(f"spool-{node}" for node in DEVICES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        files = [f"--{name}-file={munge}/{name}" for name in ("key", "log", "pid", "seed")]
        self.run("munged", "--foreground", "--force", f"--socket={munge}/socket", *files)
        ETC.mkdir(exist_ok=True)
        port, *ports = free_ports(1 + len(DEVICES))
        nodes = "\n".join(
            NODE.format(name=name, host=self.host, port=port)
            for name, port in zip(DEVICES, ports, strict=True)
        )
        configuration = SLURM_CONF.format(host=self.host, folder=self.folder, port=port, nodes=nodes)
        for name, text in (("slurm", configuration), ("gres", GRES_CONF), ("cgroup", CGROUP_CONF)):
            (ETC / f"{name}.conf").write_text(MARK + text)
        wait_for(lambda: (munge / "socket").exists(), 20, "munged does not open its socket")
        self.run("slurmctld", "-D", "-c")
        for node in DEVICES:
            self.start_node(node)
        wait_for(lambda: self.states() == dict.fromkeys(DEVICES, "idle"), 60, "the nodes do not come up")

    def stop(self) -> None:
        """End all daemons and jobs, remove the configuration."""
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.alive(), 20, "the last jobs do not end")
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in ("slurm", "gres", "cgroup"):
            (ETC / f"{name}.conf").unlink(missing_ok=True)

    def run(self, program: str, *arguments: str, key: str = "") -> None:
        """Start a daemon in the foreground; what it prints goes to a file of its name."""
        key = key or program
        with (self.folder / f"{key}.out").open("ab") as out:
            path = shutil.which(program) or f"/usr/sbin/{program}"
            self.daemons[key] = subprocess.Popen([path, *arguments], stdout=out, stderr=out)

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node."""
        self.run("slurmd", "-D", "-N", node, key=node)

    def kill_node(self, node: str) -> None:
        """Kill -9 of the slurmd of a node: for the controller, the node is gone."""
        self.daemons[node].send_signal(signal.SIGKILL)
        self.daemons[node].wait()

    def states(self) -> dict[str, str]:
        """The state of each node, such as idle, mixed, allocated, drained, down."""
        return dict(line.split() for line in ask("sinfo", "-h", "-N", "-o", "%N %T").splitlines())

    def update_node(self, node: str, state: str) -> None:
        """Drain or resume a node."""
        ask("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")

    def jobs(self, partition: str = "") -> list[dict[str, str]]:
        """Return every job so far, oldest first; with `partition`, those sent there.

        Keys: id, state, nodes, gres (per node), start, end, and what it is for (Snakemake's comment).
        """
        keys = ("id", "state", "nodes", "gres", "start", "end", "partition", "what")
        lines = ask("squeue", "-h", "-t", "all", "-S", "i", "-o", "%i|%T|%N|%b|%S|%e|%P|%k").splitlines()
        found = [dict(zip(keys, line.split("|"), strict=True)) for line in lines]
        return [job for job in found if partition in ("", job["partition"])]

    def alive(self, what: str = "", state: str = "", partition: str = "") -> list[dict[str, str]]:
        """The jobs that wait or run and whose comment contains `what`; with `state`, those in that state."""
        living = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")
        return [
            job
            for job in self.jobs(partition)
            if what in job["what"] and job["state"] in ((state,) if state else living)
        ]


def ask(*command: str) -> str:
    """What a Slurm command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def wait_for(condition: Callable[[], object], seconds: float, complaint: str) -> None:
    """Wait until `condition()` holds; a Slurm command that fails meanwhile counts as no."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except AssertionError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, f"{complaint} within {seconds:.0f} s"
        time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
