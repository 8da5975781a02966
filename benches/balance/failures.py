"""What clients see while replicas, and balancers, are killed: 400 requests a second of 50 ms each, from 200 addresses, on a connection each."""

import json
import os
import signal
import time

import proxies
from harness import BenchError, wait_until
from proxies import REPLICAS, Front, Haproxy, Keeper, Mainstay, Nginx, Replicas
from table import OURS, REPLAY, Row

RATE, SOURCES, SERVICE_TIME = 400, 200, "50ms"
TIMEOUT = "5s"
LEAD_S, TAIL_S = 1.0, 1.0
LONGEST_S = 60
#: A killed replica is back so much later, with every supervisor.
DOWN_S = 1.0
BETWEEN_KILLS_S = 2.0
BETWEEN_TERMS_S = 0.5
FREEZE_S = 3.0
CHECK_EVERY, FREEZE_CHECK_EVERY = "1s", "200ms"
DRAIN_DEADLINE_S = 10


class Scene:
    """One balancer, its replicas and who restarts them."""

    def __init__(self, bench, name, down_s, graceful=False, http_checks=False):
        self.bench, self.name = bench, name
        self.replicas = Replicas("api", port=9301, service_time=SERVICE_TIME, graceful=graceful)
        self.front = Front("api", 0, self.replicas, keyed=True)
        self.keeper = None
        if name in (OURS, REPLAY):
            alive = (f', alive: (probe: Http("http://127.0.0.1:{{port}}/"), every: "{FREEZE_CHECK_EVERY}", '
                     f'timeout: "{FREEZE_CHECK_EVERY}", fall: 1000, rise: 1)') if http_checks else ""
            self.proxy = Mainstay(bench.harness, [self.front], bench.load, replay=name == REPLAY, backoff=f"{int(down_s * 1000)}ms", alive=alive)
        else:
            self.keeper = Keeper(bench.harness, bench.load, self.replicas, down_s)
            kind = {"haproxy": Haproxy, "nginx": Nginx}[name]
            self.proxy = kind(bench.harness, [self.front], checked=FREEZE_CHECK_EVERY if http_checks else CHECK_EVERY)
            self.proxy.check = "http" if http_checks else "tcp"
        self.proxy.start(supervised=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.keeper:
            self.keeper.end()
        self.bench.harness.end_all()

    def pid(self, index):
        return (self.keeper or self.proxy).pid(index)

    def signal(self, index, number):
        pid = self.pid(index)
        if pid is None:
            raise BenchError(f"{self.name}: replica {index} has no process")
        proxies.signal_exactly(pid, number, self.bench.load)
        return pid

    def wait_back(self, index, old):
        wait_until(lambda: self.pid(index) not in (None, old), DRAIN_DEADLINE_S, f"{self.name}: replica {index} has a new process")
        self.replicas.wait_up([index])

    def under_load(self, act):
        """Acts while the load runs; what it saw."""
        harness = self.bench.harness
        output = harness.disk / f"rate-{harness.rounds}"
        load = harness.child([self.bench.load, "rate", "--to", self.proxy.to(self.front), "--rate", str(RATE), "--sources", str(SOURCES),
                              "--timeout", TIMEOUT, "--for", f"{LONGEST_S}s"], output)
        time.sleep(LEAD_S)
        act(self)
        time.sleep(TAIL_S)
        if load.exit_code() is not None:
            raise BenchError(f"the load ended before the action did: {output.read_text(errors='replace')[-300:]}")
        os.kill(load.pid, signal.SIGTERM)
        return json.loads(proxies.line_of(output, 0, 20, "the load's last line"))


def kill(scene):
    for index in range(REPLICAS):
        scene.signal(index, signal.SIGKILL)
        time.sleep(BETWEEN_KILLS_S)


def abrupt(scene):
    """A rolling restart by who does not drain: SIGTERM, of which the program dies."""
    for index in range(REPLICAS):
        scene.wait_back(index, scene.signal(index, signal.SIGTERM))
        time.sleep(BETWEEN_TERMS_S)


def drained(scene):
    """A rolling restart with all that the balancer offers."""
    if isinstance(scene.proxy, Mainstay):
        scene.proxy.restart()
    elif isinstance(scene.proxy, Haproxy):
        for index in range(REPLICAS):
            drained_by_haproxy(scene, index)
    else:
        # There is no way to tell nginx, so the program itself finishes what it has (`graceful`).
        for index in range(REPLICAS):
            scene.wait_back(index, scene.signal(index, signal.SIGTERM))
            time.sleep(BETWEEN_TERMS_S)


def drained_by_haproxy(scene, index):
    proxy, server = scene.proxy, f"{scene.front.name}/s{index}"
    proxy.admin_command(f"set server {server} state drain")
    wait_until(lambda: proxy.server(scene.front, index)["scur"] == "0", DRAIN_DEADLINE_S, f"haproxy drains {server}")
    scene.wait_back(index, scene.signal(index, signal.SIGTERM))
    proxy.admin_command(f"set server {server} state ready")
    wait_until(lambda: proxy.server(scene.front, index)["status"].startswith("UP"), DRAIN_DEADLINE_S, f"haproxy has {server} up")
    time.sleep(BETWEEN_TERMS_S)


def freeze(scene):
    scene.signal(0, signal.SIGSTOP)
    time.sleep(FREEZE_S)
    scene.signal(0, signal.SIGCONT)


def agent(scene):
    """SIGKILL of the process that was started: mainstay's agent, a master of the others. Another a second later."""
    if isinstance(scene.proxy, Mainstay):
        scene.proxy.replica_pids = [scene.pid(index) for index in range(REPLICAS)]
    scene.proxy.child.kill()
    time.sleep(DOWN_S)
    scene.proxy.start_again()
    time.sleep(2 * DOWN_S)


def reload(scene):
    for _ in range(2):
        scene.proxy.reload()
        time.sleep(2 * DOWN_S)


ACTIONS = {
    "fail-kill": (kill, "SIGKILL of each replica in turn, back after 1 s", DOWN_S),
    "fail-abrupt": (abrupt, "abrupt rolling restart", 0),
    "fail-drained": (drained, "drained rolling restart", 0),
    "fail-freeze": (freeze, "SIGSTOP of one replica for 3 s", DOWN_S),
    "fail-agent": (agent, "SIGKILL of the agent, or the master, another after 1 s", DOWN_S),
    "fail-reload": (reload, "two reloads", DOWN_S),
}


def measure(key):
    act, label, down_s = ACTIONS[key]

    def one(bench, name):
        graceful = key == "fail-drained" and name == "nginx"
        with Scene(bench, name, down_s, graceful, http_checks=key == "fail-freeze") as scene:
            found = scene.under_load(act)
        row = Row(key.replace("-", "_"), f"{label}: requests failed", "", 0, ratio=False)
        bench.put(row, name, found["failed"])
        notes = bench.rows[row.key].notes.setdefault(name, {})
        notes["of"] = notes.get("of", 0) + found["answered"] + found["failed"]
        for kind, count in found["failures"].items():
            notes[kind] = notes.get(kind, 0) + count
        bench.put(Row(f"{row.key}_p99", "... p99 of the answered", "ms", 0, ratio=False), name, found["p99_us"] / 1e3)
        bench.put(Row(f"{row.key}_max", "... slowest of the answered", "ms", 0, ratio=False), name, found["max_us"] / 1e3)

    def run(bench):
        for _ in range(bench.options.failure_rounds):
            for name in ([REPLAY] if OURS in bench.chosen else []) + bench.chosen:
                try:
                    one(bench, name)
                except (BenchError, OSError) as error:
                    bench.problem(f"{key}, {name}: {error}")

    return run


MEASURES = {key: measure(key) for key in ACTIONS}
