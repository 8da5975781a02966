"""The three balancers, each as its own manual says, and the replicas behind them. benches/README.md explains every choice made here."""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import resource
import signal
import socket
import threading
import time

from agent import UnixConnection, removed, ron, unified_group
from harness import BenchError, wait_until

REPLICAS = 4
START_DEADLINE_S = 20
#: Descriptors of a balancer that are not connections: listeners, epolls, logs, reserves.
SPARE_DESCRIPTORS = 256
HAPROXY_PIPES = 256
PORTS = {"mainstay": 8000, "haproxy": 8100, "nginx": 8200}
HAPROXY = "/usr/sbin/haproxy"
NGINX = "/usr/sbin/nginx"
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"

_keepers = []
_groups = []


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptors_max():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def end_keepers():
    """Nothing that is ended from now on is started again."""
    for keeper in _keepers:
        keeper.stopping.set()


def remove_groups():
    for group in _groups:
        if not group.exists():
            continue
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(BenchError):
                wait_until(lambda path=directory: removed(path), START_DEADLINE_S, f"remove the cgroup {directory}")


@dataclasses.dataclass(frozen=True)
class Replicas:
    """A service: `load backend` four times, at ports that follow each other or at Unix sockets."""

    name: str
    port: int = 0
    socket_dir: str = ""
    service_time: str = "0ms"
    graceful: bool = False

    def address(self, index):
        return f"unix:{self.socket_dir}/{self.name}.{index}.sock" if self.socket_dir else f"tcp:127.0.0.1:{self.port + index}"

    def argv(self, load, address):
        words = [load, "backend", "--listen", address, "--service-time", self.service_time]
        return words + ["--graceful"] if self.graceful else words

    def is_up(self, index):
        kind, _, address = self.address(index).partition(":")
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            host, _, port = address.rpartition(":")
            return probe.connect_ex(address if kind == "unix" else (host, int(port))) == 0

    def wait_up(self, indexes=range(REPLICAS)):
        for index in indexes:
            wait_until(lambda: self.is_up(index), START_DEADLINE_S, f"replica {self.name}/{index} accepts")


@dataclasses.dataclass(frozen=True)
class Front:
    """One listener and what is behind it. `keyed`: consistent hash of the client's address, else round robin."""

    name: str
    offset: int
    replicas: Replicas
    keyed: bool = False
    #: Where a balancer must be told to splice.
    bulk: bool = False
    #: Only this backend, at an address that nobody of ours runs.
    fixed: str = ""


class Keeper:
    """What runs the replicas where mainstay does not: starts one again `delay_s` after its end (None: never)."""

    def __init__(self, harness, load, replicas, delay_s):
        self.harness, self.load, self.replicas, self.delay_s = harness, load, replicas, delay_s
        self.stopping = threading.Event()
        self.children = [None] * REPLICAS
        _keepers.append(self)
        for index in range(REPLICAS):
            self.children[index] = self.start(index)
            if delay_s is not None:
                threading.Thread(target=self.watch, args=(index,), daemon=True).start()
        replicas.wait_up()

    def start(self, index):
        return self.harness.child(self.replicas.argv(self.load, self.replicas.address(index)), self.harness.disk / "replicas.out")

    def watch(self, index):
        while not self.stopping.is_set():
            if self.children[index].exit_code(0.5) is None:
                continue
            if not self.stopping.wait(self.delay_s):
                self.children[index] = self.start(index)

    def pid(self, index):
        return self.children[index].pid

    def end(self):
        self.stopping.set()


class Proxy:
    name = ""
    exe = ""

    def __init__(self, harness, fronts, checked=None):
        """`checked`: None, no health checks; else the seconds between them ("tcp" or "http" by `self.check`)."""
        self.harness, self.fronts, self.checked = harness, fronts, checked
        self.state, self.disk = harness.round(self.name)
        self.state.chmod(0o711)
        self.output = self.disk / "out"
        self.child = None

    def port(self, front):
        return PORTS[self.name] + front.offset

    def to(self, front):
        return f"127.0.0.1:{self.port(front)}"

    def launch(self, command):
        self.child = self.harness.child(command, self.output)

    def wait_listening(self):
        def listening():
            if self.child.exit_code() is not None:
                raise BenchError(f"{self.name} ended with {self.child.exit_code()}: {self.last_words()}")
            return all(accepts(self.port(front)) for front in self.fronts)

        wait_until(listening, START_DEADLINE_S, f"{self.name} listens")

    def last_words(self):
        return self.output.read_text(errors="replace").strip()[-600:]

    def processes(self):
        """All of it, without the replicas."""
        return [process for process in self.harness.descendants() if process.exe == self.exe]


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Haproxy(Proxy):
    name = "haproxy"
    exe = HAPROXY
    #: How the freeze is noticed: a check that needs an answer.
    check = "tcp"

    def start(self, supervised=False):
        """`supervised`: with its master process, which can reload."""
        self.admin = self.state / "admin.sock"
        config = self.state / "haproxy.cfg"
        pipes = HAPROXY_PIPES if any(front.bulk for front in self.fronts) else 0
        connections = (descriptors_max() - SPARE_DESCRIPTORS - 2 * pipes) // 2
        config.write_text(
            f"global\n    nbthread 2\n    maxconn {connections}\n    maxpipes {pipes}\n"
            f"    stats socket {self.admin} mode 600 level admin expose-fd listeners\n"
            "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\n"
            "    retries 3\n    option redispatch 1\n" + "".join(self.section(front) for front in self.fronts))
        self.command = [HAPROXY, *(["-W"] if supervised else []), "-db", "-f", str(config)]
        self.launch(self.command)
        self.wait_listening()

    def section(self, front):
        lines = [f"listen {front.name}", f"    bind {self.to(front)}"]
        lines += ["    balance source", "    hash-type consistent"] if front.keyed else ["    balance roundrobin"]
        if front.bulk:
            lines += ["    option splice-response"]
        if self.checked and self.check == "http":
            lines += ["    option httpchk GET /", f"    timeout check {self.checked}"]
        check = f" check inter {self.checked} fall 2 rise 1" if self.checked else ""
        targets = [front.fixed] if front.fixed else [front.replicas.address(index) for index in range(REPLICAS)]
        lines += [f"    server s{index} {target.replace('tcp:', '').replace('unix:', 'unix@')}{check}" for index, target in enumerate(targets)]
        return "\n".join(lines) + "\n"

    def start_again(self):
        self.launch(self.command)
        self.wait_listening()

    def reload(self):
        os.kill(self.child.pid, signal.SIGUSR2)

    def admin_command(self, text):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(str(self.admin))
            admin.sendall(text.encode() + b"\n")
            answer = b""
            while part := admin.recv(65536):
                answer += part
        return answer.decode()

    def server(self, front, index):
        """Its line of `show stat`, by column."""
        lines = self.admin_command("show stat").lstrip("# ").splitlines()
        columns = lines[0].split(",")
        for line in lines[1:]:
            found = dict(zip(columns, line.split(",")))
            if (found.get("pxname"), found.get("svname")) == (front.name, f"s{index}"):
                return found
        raise BenchError(f"haproxy: show stat lacks {front.name}/s{index}")


class Nginx(Proxy):
    name = "nginx"
    exe = NGINX

    def start(self, supervised=False):
        del supervised  # It always has its master process.
        config = self.state / "nginx.conf"
        limit = descriptors_max()
        config.write_text(
            f"load_module {NGINX_STREAM};\ndaemon off;\nworker_processes 2;\nworker_rlimit_nofile {limit};\npid {self.state}/pid;\n"
            f"error_log {self.disk}/error.log error;\nevents {{ worker_connections {limit - SPARE_DESCRIPTORS}; }}\n"
            "stream {\n    proxy_connect_timeout 1s;\n    proxy_timeout 1h;\n" + "".join(self.section(front) for front in self.fronts) + "}\n")
        self.launch([NGINX, "-p", str(self.state), "-e", f"{self.disk}/error.log", "-c", str(config)])
        self.wait_listening()

    def section(self, front):
        targets = [front.fixed] if front.fixed else [front.replicas.address(index) for index in range(REPLICAS)]
        failing = "max_fails=1 fail_timeout=1s" if self.checked else "max_fails=0"
        servers = "".join(f"        server {target.replace('tcp:', '')} {failing};\n" for target in targets)
        method = "        hash $remote_addr consistent;\n" if front.keyed else ""
        return (f"    upstream {front.name} {{\n{method}{servers}    }}\n"
                f"    server {{ listen {self.to(front)} backlog=4096; proxy_pass {front.name}; }}\n")

    def start_again(self):
        """Not while the workers of the dead master have the port; nobody restarts them, nobody can reload them, and they serve."""

    def reload(self):
        os.kill(self.child.pid, signal.SIGHUP)


class Mainstay(Proxy):
    """The agent with its roles; it runs the replicas as well."""

    name = "mainstay"
    binary = None

    def __init__(self, harness, fronts, load, replay=False, backoff="0ms", alive=""):
        super().__init__(harness, fronts)
        self.exe = self.binary
        self.load, self.replay, self.backoff, self.alive = load, replay, backoff, alive
        self.run_dir = self.state / "run"
        self.socket = self.run_dir / "mainstay.sock"
        self.config = self.state / "mainstay.ron"
        self.cgroup = "Off"
        self.drain_timeout = "10s"
        self.replica_pids = []

    def start(self, supervised=False):
        del supervised
        parent = unified_group()
        if parent:
            group = parent / f"mainstay-bench-{os.getpid()}-{self.harness.rounds}"
            _groups.append(group)
            self.cgroup = f"Path({ron(group)})"
        self.configure()
        self.launch_agent()
        wait_until(self.all_ready, START_DEADLINE_S, "mainstay: every replica ready in /v1/services")
        self.wait_listening()

    def configure(self):
        services = {front.replicas.name: front.replicas for front in self.fronts if not front.fixed}
        self.config.write_text(
            f"(\n    agent: (run_dir: {ron(self.run_dir)}, state_dir: {ron(self.disk / 'state')}, log_dir: {ron(self.disk / 'log')},\n"
            f"            cgroup: {self.cgroup}, default_checks: false),\n"
            f"    services: [\n{''.join(self.service(replicas) for replicas in services.values())}    ],\n"
            f"    balancers: [\n{''.join(self.balancer(front) for front in self.fronts)}    ],\n)\n")
        self.config.chmod(0o600)

    def launch_agent(self):
        self.launch([self.binary, "run", "--config", str(self.config)])

    def service(self, replicas):
        address = f"unix:{replicas.socket_dir}/{replicas.name}.{{replica}}.sock" if replicas.socket_dir else "tcp:127.0.0.1:{port}"
        port = f"port: {replicas.port}, " if replicas.port else ""
        ready = 'Log("listening")' if replicas.socket_dir else 'Tcp("127.0.0.1:{port}")'
        command = ", ".join(ron(word) for word in replicas.argv(self.load, address))
        return (f"        (name: {ron(replicas.name)}, command: [{command}], replicas: {REPLICAS}, {port}restart: Always,\n"
                f"         backoff: (min: {ron(self.backoff)}, max: \"1s\", factor: 1.0, jitter: \"0%\"), budget: None, ready: {ready}{self.alive}),\n")

    def balancer(self, front):
        if front.fixed:
            to = f"backends: [{ron(front.fixed)}]"
        else:
            replicas = front.replicas
            path = f"{replicas.socket_dir}/{replicas.name}.{{replica}}.sock"
            to = f"to: {ron(replicas.name)}" + (f", socket: {ron(path)}" if replicas.socket_dir else "")
        rules = "algorithm: Rendezvous, key: SourceIp" if front.keyed else "algorithm: RoundRobin"
        replay = ', replay: Unanswered(max: "16KiB")' if self.replay else ""
        ramp = "" if front.keyed else ', ramp: "0s"'
        return (f"        (name: {ron(front.name)}, listen: [{ron('tcp:' + self.to(front))}], {to}, delivery: Proxy,\n"
                f"         {rules}{replay}{ramp}, drain_timeout: {ron(self.drain_timeout)}),\n")

    def listed(self):
        """service name -> its replicas, empty while no agent answers."""
        connection = UnixConnection(self.socket)
        try:
            connection.request("GET", "/v1/services")
            services = json.loads(connection.getresponse().read())["services"]
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
        return {service["name"]: service["replicas"] for service in services}

    def all_ready(self):
        if self.child.exit_code() is not None:
            raise BenchError(f"mainstay ended with {self.child.exit_code()}: {self.last_words()}")
        listed = self.listed()
        return listed and all(replica["state"] == "ready" for replicas in listed.values() for replica in replicas)

    def pid(self, index):
        """None while it has none, or while no agent answers."""
        replicas = self.listed().get(self.fronts[0].replicas.name)
        return replicas[index]["pid"] if replicas else None

    def start_again(self):
        """A new agent, which must adopt what the dead one left."""
        before = self.replica_pids
        self.launch_agent()
        wait_until(self.all_ready, START_DEADLINE_S, "the next agent has every replica ready")
        if before != [self.pid(index) for index in range(REPLICAS)]:
            raise BenchError("the next agent did not adopt the replicas")

    def restart(self):
        """`mainstay restart`: drain, stop, start, ready, the next."""
        self.client("restart", self.fronts[0].replicas.name)

    def reload(self):
        """With a change for the balancer, or there would be nothing to do."""
        self.drain_timeout = "9s" if self.drain_timeout == "10s" else "10s"
        self.configure()
        self.client("reload")

    def client(self, *words):
        code, output = self.harness.command([self.binary, "--socket", str(self.socket), *words])
        if code != 0:
            raise BenchError(f"mainstay {' '.join(words)}: {code}: {output.strip()[-300:]}")


def signal_exactly(pid, number, exe):
    """To this process and no later owner of its number."""
    descriptor = os.pidfd_open(pid)
    try:
        if os.readlink(f"/proc/{pid}/exe") != exe:
            raise BenchError(f"process {pid} is no longer {exe}")
        signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def line_of(path, number, deadline_s, what):
    """Line `number` of a file that another process writes."""
    def read():
        lines = pathlib.Path(path).read_text(errors="replace").splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        return complete[number] if len(complete) > number else None

    return wait_until(read, deadline_s, what, poll_s=0.02)


def quiet(seconds):
    """Share of the CPUs that others used during this time."""
    def busy():
        fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    before = busy()
    time.sleep(seconds)
    after = busy()
    return (after[0] - before[0]) / max(1, after[1] - before[1])
