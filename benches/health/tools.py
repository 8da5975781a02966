"""mainstay, monit and prometheus-node-exporter, each watching the host as it comes from its package, and how each is asked."""

import ctypes
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import agent
from agent import ron, unified_group
from harness import BenchError, wait_until

MNT_DETACH = 2
ASK_TIMEOUT_S = 5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class DeadMount:
    """A FUSE file system whose server never answers: what a dead disk or file server looks like to whoever touches it. In the host's own mount
    namespace, because node_exporter looks into that of process 1; it is gone with this process at the latest."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if libc.mount(b"dead", os.fsencode(path), b"fuse.dead", 0, options.encode()):
            raise BenchError(f"cannot mount a FUSE file system: {os.strerror(ctypes.get_errno())}")

    def close(self):
        # Whoever waits for it gets ENOTCONN, also those that no signal can end.
        os.close(self.device)
        ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(self.path), MNT_DETACH)


class Tool:
    name = None
    package = None
    program = None

    def __init__(self, harness, interval_s):
        self.harness, self.interval_s = harness, interval_s
        self.state, self.disk = harness.round(self.name)
        self.child = None

    def start(self):
        self.configure()
        self.child = self.harness.child(self.command(), self.disk / "output")
        self.pid = self.child.pid
        wait_until(self.answers, 30, f"{self.name} answers")

    def processes(self):
        """Its own and its descendants."""
        found, known = [], {self.pid}
        for process in sorted(self.harness.descendants(), key=lambda process: process.pid):
            if process.pid in known or process.ppid in known:
                known.add(process.pid)
                found.append(process)
        return found

    def answers(self):
        try:
            return bool(self.scrape())
        except (OSError, BenchError, http.client.HTTPException):
            if self.child.exit_code() is not None:
                text = (self.disk / "output").read_text(errors="replace")
                raise BenchError(f"{self.name} ended: {text[-500:]}") from None
            return False

    def configure(self):
        pass


class Mainstay(Tool):
    name = "mainstay"
    binary = None

    def configure(self):
        self.run_dir = self.state / "run"
        parent = unified_group()
        self.group = parent / f"mainstay-bench-{os.getpid()}-{self.harness.rounds}" if parent else None
        cgroup = f"Path({ron(self.group)})" if self.group else "Off"
        self.config = self.state / "mainstay.ron"
        watched = "".join(f'(name: "dead", check: DiskSpace(path: {ron(path)})),' for path in self.extra_mounts)
        self.config.write_text(
            f"(agent: (run_dir: {ron(self.run_dir)}, state_dir: {ron(self.disk / 'state')}, log_dir: {ron(self.disk / 'log')},\n"
            f"         cgroup: {cgroup}),\n services: [(name: \"one\", command: [\"/bin/sleep\", \"1000000\"])],\n checks: [{watched}])\n")
        self.config.chmod(0o600)

    extra_mounts = ()

    def command(self):
        return [self.binary, "run", "--config", str(self.config)]

    def get(self, path):
        return agent.get(self.run_dir / "mainstay.sock", path)

    def scrape(self):
        return self.get("/metrics")

    def checks(self):
        return json.loads(self.get("/v1/checks"))["checks"]

    def processes(self):
        # The service is the user's.
        return [process for process in super().processes() if process.exe == os.path.realpath(self.binary)]

    def knows_of(self, path):
        return any(check["target"] == str(path) and check["state"] in ("unknown", "failing") for check in self.checks())

    def remove(self):
        if self.group is None:
            return
        for directory, _, _ in os.walk(self.group, topdown=False):
            for _ in range(100):
                try:
                    os.rmdir(directory)
                    break
                except OSError:
                    time.sleep(0.05)


class Monit(Tool):
    name, package, program = "monit", "monit", "monit"

    def configure(self):
        self.port = free_port()
        self.config = self.state / "monitrc"
        nic = next((name for name in os.listdir("/sys/class/net") if name != "lo"), None)
        mounts = "".join(f'check filesystem extra{index} with path {path}\n  if space usage > 90% then alert\n' for index, path in enumerate(self.extra_mounts))
        self.config.write_text(
            f"set daemon {self.interval_s}\nset log {self.disk / 'monit.log'}\nset pidfile {self.state / 'pid'}\nset idfile {self.state / 'id'}\n"
            f"set statefile {self.state / 'state'}\nset httpd port {self.port} and use address 127.0.0.1\n  allow localhost\n"
            "check system host\n  if loadavg (5min) > 20 then alert\n  if cpu usage > 95% for 10 cycles then alert\n"
            "  if memory usage > 90% then alert\n  if swap usage > 90% then alert\n"
            "check filesystem root with path /\n  if space usage > 90% then alert\n  if inode usage > 90% then alert\n"
            "  if changed fsflags then alert\n"
            + (f"check network nic interface {nic}\n  if failed link then alert\n  if changed link then alert\n" if nic else "") + mounts)
        self.config.chmod(0o600)

    extra_mounts = ()

    def command(self):
        return [shutil.which("monit", path="/usr/bin:/usr/sbin"), "-I", "-c", str(self.config)]

    def scrape(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/_status?format=text", timeout=ASK_TIMEOUT_S) as answer:
            return re.sub("\x1b\\[[0-9;]*m", "", answer.read().decode())

    def knows_of(self, path):
        text = self.scrape()
        part = text.partition("Filesystem 'extra0'")[2].partition("\n\n")[0]
        status = re.search(r"^\s*status\s+(.*)$", part, re.MULTILINE)
        return bool(status) and status.group(1).strip() not in ("OK", "Initializing")

    def remove(self):
        pass


class NodeExporter(Tool):
    name, package, program = "node_exporter", "prometheus-node-exporter", "prometheus-node-exporter"

    def configure(self):
        self.port = free_port()

    extra_mounts = ()

    def command(self):
        # Its default leaves out file systems below /run and the like; a FUSE type is looked at.
        return [shutil.which("prometheus-node-exporter", path="/usr/bin:/usr/sbin"), f"--web.listen-address=127.0.0.1:{self.port}"]

    def scrape(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=ASK_TIMEOUT_S) as answer:
            return answer.read().decode()

    def knows_of(self, path):
        pattern = rf'node_filesystem_device_error{{[^}}]*mountpoint="{re.escape(str(path))}"[^}}]*}} 1'
        return re.search(pattern, self.scrape()) is not None

    def remove(self):
        pass


TOOLS = {"mainstay": Mainstay, "monit": Monit, "node_exporter": NodeExporter}


def answer_ms(tool):
    """How long the tool takes to answer; None when it does not within the time."""
    began = time.monotonic()
    try:
        tool.scrape()
    except (OSError, BenchError, http.client.HTTPException):
        return None
    return (time.monotonic() - began) * 1e3


def install(missing):
    if os.geteuid() or not shutil.which("apt-get"):
        raise BenchError(f"not installed: {', '.join(missing)}; root and apt-get would install them")
    # Only the programs are wanted: no daemon is started by its package.
    policy = pathlib.Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["apt-get", "-qq", "update"], ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode:
            raise BenchError(f"apt-get: {done.stderr[-500:]}")
    finally:
        if ours:
            policy.unlink()


def ends_on_term(tool, within_s=5):
    """Whether SIGTERM ends it, as its service manager would."""
    os.kill(tool.pid, signal.SIGTERM)
    return tool.child.exit_code(within_s) is not None
