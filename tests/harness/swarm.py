"""A Swarm of two nodes on this machine, made from nothing: two engines, a base image without a registry, our images.

It needs root and Debian's packages. The first node is this machine; the second one is an engine in a network namespace
of its own, joined by a pair of virtual links. What an operator makes too is made by `mlbuffet deploy`, as one does. All
of it lies in one folder and is taken away at the end, unless MLBUFFET_LAB_KEEP=1: then the next run finds it there. The
kernel may lack IPVS: so no virtual IPs and no ingress mesh.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.harness.platform import ROOT, wait_until

FOLDER = Path("/var/tmp/mlbuffet-lab")  # noqa: S108 - layers cannot lie on a tmpfs; one lab for a machine
BASE = "python:3.11-slim-bookworm"
TAG = "lab"
ADDRESSES = ("172.31.0.1", "172.31.0.2")
PROGRAMS = ("docker", "dockerd", "debootstrap", "ip", "iptables", "nsenter")
_DEPLOY_S = 600.0
_NAMESPACE = "mlbuffet2"
_LINKS = ("mlbuffet-1", "mlbuffet-2")
KEEP = os.environ.get("MLBUFFET_LAB_KEEP") == "1"


def missing() -> str:
    """Why there can be no lab here; empty when there can be."""
    if os.geteuid() != 0:
        return "two Docker engines need root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    # Two engines beside each other would change each other's bridges and packet filters.
    other = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return "another Docker engine runs on this machine" if other.returncode == 0 else ""


def run(*command: str | Path, timeout_s: float = 120, **options: Any) -> str:  # noqa: ANN401 - as subprocess takes them
    """Run a program; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout)


class Node:
    """One engine."""

    def __init__(self, name: str, address: str, namespace: str = "") -> None:
        self.name = name
        self.address = address
        self.folder = FOLDER / name
        self._namespace = namespace
        self._environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_API_VERSION": "1.41",  # a client may be newer than Debian's engine
            "MLBUFFET_TAG": TAG,
            "HOME": f"{FOLDER}/home",  # of the operator, who keeps the authority's key there
            "XDG_CONFIG_HOME": f"{FOLDER}/home/.config",
        }

    @property
    def environment(self) -> dict[str, str]:
        """What a docker client needs to speak to this engine."""
        return dict(self._environment)

    def docker(self, *arguments: str | Path, timeout_s: float = 120, **options: Any) -> str:  # noqa: ANN401 - as above
        """Run a docker command; returns what it printed."""
        return run("docker", *arguments, timeout_s=timeout_s, env=self._environment, **options).strip()

    def inspect(self, *names: str) -> list[dict[str, Any]]:
        """What the engine knows of containers, images or services."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *names)) if names else []
        return found

    def containers(self, service: str = "") -> list[str]:
        """The running containers of the stack, or of one service in it."""
        label = (
            f"com.docker.swarm.service.name=mlbuffet_{service}" if service else "com.docker.stack.namespace=mlbuffet"
        )
        return self.docker("ps", "--quiet", "--filter", f"label={label}").split()

    def logs(self, container: str) -> str:
        """What a container has printed, on either stream."""
        command = ["docker", "logs", container]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True)
        return done.stdout + done.stderr

    def is_up(self) -> bool:
        """Tell whether the engine answers."""
        done = subprocess.run(["docker", "info"], env=self._environment, capture_output=True, check=False)
        return done.returncode == 0

    def start(self) -> None:
        """Start the engine and wait for it."""
        if self.is_up():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["dockerd", f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec"]
        command += [f"--pidfile={self.folder}/pid", f"--host=unix://{self.folder}/docker.sock"]
        if self.listens:
            where = (self._tls / "docker.socket.conf").read_text().partition("ListenStream=")[2].split()[0]
            command = [sys.executable, "-m", "tests.harness.activation", where, *command]
            command += ["--host=fd://", f"--config-file={self._tls}/daemon.json"]
        if self._namespace:
            # Not `ip netns exec`: that mounts /sys anew and hides the control groups.
            own = f'hostname {self.name}; mount -t tmpfs none /run/docker; mkdir -p /run/docker/netns; exec "$@"'
            entered = ["nsenter", f"--net=/run/netns/{self._namespace}", "unshare", "--mount", "--uts"]
            command = [*entered, "sh", "-c", own, "sh", *command]
        (self.folder / "pid").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, check=True
            )
        wait_until(self.is_up, 60, f"the engine of {self.name}")

    def listen(self, files: Mapping[str, bytes]) -> None:
        """Take the trainer over TLS from now on, by the files of `mlbuffet deploy engine`; starts anew."""
        self._tls.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (self._tls / name).write_bytes(content.replace(b"/etc/docker/mlbuffet", bytes(self._tls)))
        self.stop()
        self.start()

    @property
    def listens(self) -> bool:
        """Tell whether it takes a trainer."""
        return self._tls.exists()

    @property
    def _tls(self) -> Path:
        return self.folder / "tls"

    def kill(self) -> None:
        """End the engine and all containers at once, as if the machine had lost its power."""
        states = [known["State"] for known in self.inspect(*self.docker("ps", "--quiet").split())]
        pids = [state["Pid"] for state in states if state["Pid"]]  # 0 of one that has ended meanwhile is our own group
        engine = int((self.folder / "pid").read_text())
        shims = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if self._owns(path)]
        for pid in (engine, *shims, *pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # As when a machine starts again: else the next engine takes a zombie for its containerd, and volumes are busy.
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in mounted:
            if path.startswith(f"{self.folder}/data/volumes/"):
                run("umount", "--lazy", path)

    def _owns(self, command_line: Path) -> bool:
        """Tell whether a process was started with this engine's folder."""
        try:
            return f"{self.folder}/".encode() in command_line.read_bytes()
        except OSError:
            return False

    def stop(self) -> None:
        """Stop the engine in order."""
        try:
            pid = int((self.folder / "pid").read_text())
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            return
        wait_until(lambda: not Path(f"/proc/{pid}/exe").exists(), 60, f"the end of the engine of {self.name}")


class Lab:
    """Both nodes, joined, with base image and our images; both engines take a trainer."""

    keeps = FOLDER / "home/.config/mlbuffet/mlbuffet"  # the authorities, as an operator does

    def __init__(self) -> None:
        self.first = Node("node1", ADDRESSES[0])
        self.second = Node("node2", ADDRESSES[1], _NAMESPACE)
        self.nodes = (self.first, self.second)

    def __enter__(self) -> Self:
        """Make what is not there yet."""
        (FOLDER / "home").mkdir(parents=True, exist_ok=True)
        rules = FOLDER / "iptables"
        if not rules.exists():
            rules.write_text(run("iptables-save"))
        try:
            self.first.start()
            if not self.first.docker("images", "--quiet", BASE):
                self.deploy("base")
            self.deploy("build")
            self._join()
            self._open_engines()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Take it all away."""
        if KEEP:
            return
        for node in reversed(self.nodes):
            if node.is_up():
                node.docker("swarm", "leave", "--force", timeout_s=60)
            node.stop()
        subprocess.run(["ip", "netns", "del", _NAMESPACE], capture_output=True, check=False)
        for link in ("docker_gwbridge", "docker0", _LINKS[0]):
            subprocess.run(["ip", "link", "del", link], capture_output=True, check=False)
        rules = (FOLDER / "iptables").read_text()
        cleared = "".join(f"*{table}\nCOMMIT\n" for table in ("filter", "nat") if f"*{table}" not in rules)
        run("iptables-restore", input=rules + cleared)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in reversed(
            [path for path in mounted if path.startswith(f"{FOLDER}/")]
        ):  # of an engine that was killed
            run("umount", path)
        shutil.rmtree(FOLDER)

    def deploy(self, *words: str | Path, **variables: str) -> str:
        """Run `mlbuffet deploy …` as an operator does; returns what it printed."""
        command = (sys.executable, "-m", "mlbuffet.cli", "deploy", *words)
        return run(*command, timeout_s=_DEPLOY_S, env=self.first.environment | variables, cwd=ROOT)

    def link(self, state: str) -> None:
        """Plug the second node in or out: `up` or `down`."""
        run("ip", "link", "set", _LINKS[0], state)

    def copy_image(self, name: str) -> None:
        """Bring an image to the second node, which has no registry to ask."""
        with subprocess.Popen(["docker", "save", name], env=self.first.environment, stdout=subprocess.PIPE) as saved:
            self.second.docker("load", "--quiet", stdin=saved.stdout)
        assert saved.returncode == 0

    def _join(self) -> None:
        """Make one Swarm of the two."""
        if not Path(f"/run/netns/{_NAMESPACE}").exists():
            _link()
        first, second = self.nodes
        if not _is_in_swarm(first):
            first.docker("swarm", "init", "--advertise-addr", first.address)
        second.start()
        if not _is_in_swarm(second):
            second.docker(
                "swarm", "join", "--token", first.docker("swarm", "join-token", "-q", "worker"), first.address
            )
        self.copy_image(f"mlbuffet/modelhost:{TAG}")

    @property
    def engines(self) -> tuple[str, str]:
        """Where a trainer on the first node reaches the engines."""
        return f"tcp://{self._gateway()}:2376", f"tcp://{self.second.address}:2376"

    def _gateway(self) -> str:
        """The address at which a task on the first node finds its host."""
        known = self.first.docker("network", "inspect", "docker_gwbridge", "--format={{json .IPAM.Config}}")
        return str(json.loads(known)[0]["Gateway"])

    def _open_engines(self) -> None:
        """Have both listen for a trainer, by what `mlbuffet deploy engine` makes; the second one needs an image too."""
        if self.second.listens:
            return
        self.copy_image(BASE)
        for node, address in ((self.first, self._gateway()), (self.second, self.second.address)):
            self.deploy("engine", address, node.name, "127.0.0.1", "--to", f"{node.folder}/engine")
            node.listen({path.name: path.read_bytes() for path in (node.folder / "engine").iterdir()})


_PACKAGES = "cd /opt/mlbuffet/lib/python3*/site-packages"

# For `build_changed`: a runtime that makes sessions, and fails at the first run.
CANNOT_RUN = (
    f"RUN {_PACKAGES}/modelhost/runtimes"
    " && sed -i 's/return self._session.run(/return self._session.rum(/' onnx.py && rm -rf __pycache__"
)
# A version that writes what this one does not know into manifests: a field, and a setting among those of `serving`.
NEWER = (
    f"RUN {_PACKAGES}/mlbuffet"
    """ && sed -i 's/return data | unknown | within$/return data | unknown | within | {"team": "blue", """
    """"serving": data["serving"] | {"burst": 4}}/' manifest.py && grep -q burst manifest.py && rm -rf __pycache__"""
)


def build_changed(lab: Lab, service: str, tag: str, *lines: str) -> None:
    """Make mlbuffet/<service>:<tag>, the service's image with changes, lines of a Dockerfile."""
    text = "\n".join([f"FROM mlbuffet/{service}:{TAG}", "USER 0", *lines, "USER 10001:10001", ""])
    lab.first.docker("build", "--quiet", f"--tag=mlbuffet/{service}:{tag}", "-", input=text)


def _is_in_swarm(node: Node) -> bool:
    return node.docker("info", "--format={{.Swarm.LocalNodeState}}") == "active"


def _link() -> None:
    """The second node's network: a link to the first one and no other way out.

    No default route: an agent tries to pull each image first, and waits where there is a route to nowhere.
    """
    ours, theirs = _LINKS
    commands: Sequence[str] = (
        f"ip netns add {_NAMESPACE}",
        f"ip link add {ours} type veth peer name {theirs}",
        f"ip link set {theirs} netns {_NAMESPACE}",
        f"ip addr add {ADDRESSES[0]}/24 dev {ours}",
        f"ip link set {ours} up",
        f"ip -n {_NAMESPACE} addr add {ADDRESSES[1]}/24 dev {theirs}",
        f"ip -n {_NAMESPACE} link set {theirs} up",
        f"ip -n {_NAMESPACE} link set lo up",
    )
    for command in commands:
        run(*command.split())
