"""mainstay, driven by its public interface only: the configuration file, the commands, the API on its socket."""

import http.client
import json
import os
import pathlib
import re
import socket

from harness import START_DEADLINE_S, BenchError, wait_until
from peers import LOG_FILE_BYTES, LOG_FILES, STOP_TIMEOUT_S, Fleet, by_age

API_TIMEOUT_S = 5


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=API_TIMEOUT_S)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(socket_path, path):
    """The body of an answer of the API."""
    connection = UnixConnection(socket_path)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise BenchError(f"GET {path}: {answer.status} {body[:200]}")
        return body
    finally:
        connection.close()


def ron(text):
    """A RON string; JSON's escapes are a part of RON's."""
    return json.dumps(str(text))


def unified_group():
    """Our own directory in the cgroup v2 mount, None where there is none that we may write to."""
    mount = None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            mount = left.split()[4]
    own = re.search(r"^0::(/.*)$", pathlib.Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    if mount is None or own is None:
        return None
    path = pathlib.Path(mount + own.group(1).rstrip("/"))
    return path if os.access(path, os.W_OK) else None


class Mainstay(Fleet):
    name = "mainstay"
    binary = None

    def configure(self):
        self.run_dir = self.state / "run"
        self.log_dir = self.disk / "log"
        self.socket = self.run_dir / "mainstay.sock"
        parent = unified_group()
        self.unanswered = None
        self.group = parent / f"mainstay-bench-{os.getpid()}-{self.harness.rounds}" if parent else None
        cgroup = f"Path({ron(self.group)})" if self.group else "Off"
        policy = "Always" if self.restart else "Never"
        services = "".join(
            f"        (name: {ron(service.name)}, command: [{', '.join(ron(word) for word in self.argv(service))}], restart: {policy},\n"
            f"         backoff: (min: \"0ms\"), budget: None, stop: (timeout: \"{STOP_TIMEOUT_S}s\"),\n"
            f"         logs: (max_size: \"{LOG_FILE_BYTES}B\", keep: {LOG_FILES})),\n"
            for service in self.services)
        self.config = self.state / "mainstay.ron"
        self.config.write_text(
            f"(\n    agent: (run_dir: {ron(self.run_dir)}, state_dir: {ron(self.disk / 'state')}, log_dir: {ron(self.log_dir)},\n"
            f"            cgroup: {cgroup}, default_checks: false),\n    services: [\n{services}    ],\n)\n")
        self.config.chmod(0o600)

    def command(self):
        return [self.binary, "run", "--config", str(self.config)]

    def get(self, path):
        return get(self.socket, path)

    def replicas(self):
        """service name -> its one replica as the API shows it; empty while no agent answers, with the reason in `unanswered`."""
        try:
            listed = json.loads(self.get("/v1/services"))["services"]
        except (OSError, ValueError, http.client.HTTPException, BenchError) as error:
            self.unanswered = f"{type(error).__name__}: {error}"
            return {}
        self.unanswered = None
        return {service["name"]: service["replicas"][0] for service in listed}

    def settled(self, deadline_s):
        """Every service is ready, and its process is the one that last stamped."""
        def all_ready():
            seen = self.replicas()
            if len(seen) < len(self.services):
                return False
            latest = self.stamps.latest()
            return all(
                seen[service.name]["state"] == "ready" and seen[service.name]["pid"] == latest[service.slot].pid
                for service in self.services)

        try:
            wait_until(all_ready, deadline_s, "mainstay: every service ready in /v1/services")
        except BenchError as error:
            states = {name: (replica["state"], replica["pid"]) for name, replica in self.replicas().items()}
            raise BenchError(f"{error}: {self.unanswered or str(states)[:400]}; its last words: {self.last_words()}") from error

    def start_again(self):
        """A new agent after the death of the old one."""
        self.launch()

    def agent_gone(self):
        return self.child.exit_code()

    def stop(self, service):
        return self.harness.command([self.binary, "--socket", str(self.socket), "stop", service.name])

    def exits_seen(self):
        """Replicas whose last exit the API reports with the service program's own code."""
        return sum(
            1 for replica in self.replicas().values() if (replica["last_exit"] or {}).get("code") == 7)

    def log_files(self, service):
        # The current file ends in `.log`; a rotated one has something after or before that.
        return by_age(self.log_dir, f"{service.name}.*")

    def remove(self):
        if self.group is None or not self.group.exists():
            return
        for directory, _, _ in os.walk(self.group, topdown=False):
            wait_until(lambda path=directory: removed(path), START_DEADLINE_S, f"remove the cgroup {directory}")


def removed(directory):
    """rmdir; a group whose last process is just being reaped answers EBUSY for a moment."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
