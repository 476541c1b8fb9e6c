"""SLURM on this machine alone: its daemons with folders, ports and a key of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
PACKAGES = "slurmctld slurmd slurm-client munge"

CONF = """
ClusterName=ftframe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
KillWait=5
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime=30 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 State=UP
"""


class NotHereError(Exception):
    """SLURM cannot run on this machine."""


def run(conf: Path, *command: str) -> str:
    """What a command of SLURM's prints."""
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)
    return done.stdout.strip()


@contextmanager
def one_node(folder: Path) -> Iterator[Path]:
    """SLURM with this machine for its one node; gives its `slurm.conf`.

    Raises:
        NotHereError: If a program is missing, or a daemon does not come up.
    """
    _look_for_programs()
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    conf.write_text(CONF.format(host=host, folder=folder, controller=_free_port(), node=_free_port()))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # SLURM counts them
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    munge = [f"--{name}={folder}/munge.{suffix}" for name, suffix in MUNGE.items()]
    with ExitStack() as stack:
        # --force: pytest's folders are closed to other users, and munged wants its socket open to all
        stack.enter_context(_daemon(folder, "munged", "--foreground", "--force", *munge))
        _wait_for(folder, "munged", lambda: (folder / "munge.socket").exists())
        stack.enter_context(_daemon(folder, "slurmctld", "-D", "-f", str(conf)))
        stack.enter_context(_daemon(folder, "slurmd", "-D", "-f", str(conf)))
        _wait_for(folder, "slurmd", lambda: run(conf, "sinfo", "--noheader", "--format=%T") == "idle")
        try:
            yield conf
        finally:
            run(conf, "scancel", f"--user={os.getuid()}")
            _wait_for(folder, "slurmd", lambda: not run(conf, "squeue", "--noheader"))
            run(conf, "scontrol", "shutdown")  # one that was started again as well


@contextmanager
def controller_stopped(conf: Path) -> Iterator[None]:
    """Stop slurmctld, and start it again afterwards."""
    run(conf, "scontrol", "shutdown", "slurmctld")
    pid_file = conf.parent / "slurmctld.pid"
    _wait_for(conf.parent, "slurmctld", lambda: not pid_file.exists())
    try:
        yield
    finally:
        subprocess.run([_program("slurmctld"), "-f", str(conf)], check=True, timeout=30)  # into the background
        _wait_for(conf.parent, "slurmctld", lambda: pid_file.exists())


MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def _look_for_programs() -> None:
    missing = [name for name in PROGRAMS if not _program(name)]
    if missing:
        raise NotHereError(f"no {', no '.join(missing)} here (Debian: apt-get install {PACKAGES})")
    if os.geteuid() != 0:
        raise NotHereError("slurmd and slurmctld are started as root only")


def _program(name: str) -> str:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") or ""


@contextmanager
def _daemon(folder: Path, name: str, *arguments: str) -> Iterator[None]:
    with (folder / f"{name}.txt").open("wb") as output:
        process = subprocess.Popen([_program(name), *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(folder: Path, name: str, condition) -> None:
    until = time.monotonic() + 30.0
    while not condition():
        if time.monotonic() > until:
            said = (folder / f"{name}.txt").read_text().strip().splitlines()[-3:]
            raise NotHereError(f"{name} does not come up (Debian: {PACKAGES}): {' | '.join(said)}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
