"""Rates, CPU and memory: one world in which all balancers stand before the same replicas, asked in turn, round after round."""

import contextlib
import json
import shutil

import proxies
from harness import BenchError, activity, pss_kib, wait_until
from proxies import Front, Haproxy, Keeper, Mainstay, Nginx, Replicas
from table import OURS, Row

SETTLE_S = 0.05
IDLE_SETTLE_S = 1.0
HELD_WANTED = 20_000
KEEP = ((1, 64), (64, 64), (1, 16384), (64, 16384))
CROSS_PORT = 5201


class World:
    """The replicas, and every chosen balancer before them."""

    def __init__(self, bench, sets=("tcp",), bulk=False, cross=False):
        self.bench, harness = bench, bench.harness
        directory = harness.state / f"sockets-{harness.rounds}"
        directory.mkdir()
        directory.chmod(0o711)
        self.replicas = {"tcp": Replicas("tcp", port=9101), "unix": Replicas("unix", socket_dir=str(directory))}
        self.replicas = {name: replicas for name, replicas in self.replicas.items() if name in sets}
        offsets = {"tcp": 0, "unix": 1}
        self.fronts = {name: Front(name, offsets[name], replicas) for name, replicas in self.replicas.items()}
        if bulk:
            for name, replicas in self.replicas.items():
                self.fronts[f"bulk-{name}"] = Front(f"bulk-{name}", 2 + offsets[name], replicas, bulk=True)
        if cross:
            self.fronts["iperf"] = Front("iperf", 9, self.replicas["tcp"], bulk=True, fixed=f"tcp:127.0.0.1:{CROSS_PORT}")
        self.proxies = {}
        self.keepers = []
        self.start()

    def start(self):
        bench, fronts = self.bench, list(self.fronts.values())
        if OURS in bench.chosen:
            ours = Mainstay(bench.harness, fronts, bench.load)
            try:
                ours.start()
                self.proxies[OURS] = ours
            except BenchError as error:
                bench.problem(str(error))
                bench.harness.end_all()
        if OURS not in self.proxies:
            self.keepers = [Keeper(bench.harness, bench.load, replicas, None) for replicas in self.replicas.values()]
        for kind in (Haproxy, Nginx):
            if kind.name in bench.chosen:
                proxy = kind(bench.harness, fronts)
                proxy.start()
                self.proxies[kind.name] = proxy
        for name, proxy in self.proxies.items():
            for front in fronts:
                if not front.fixed:
                    ask(bench, name, proxy, front, "verify")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for keeper in self.keepers:
            keeper.end()
        self.bench.harness.end_all()


def ask(bench, name, proxy, front, *words):
    code, output = bench.harness.command([bench.load, *words[:1], "--to", proxy.to(front), *(str(word) for word in words[1:])])
    if code != 0:
        raise BenchError(f"{name}, {front.name}, load {words[0]}: {output.strip()[-300:]}")
    return json.loads(output.strip().splitlines()[-1])


def cpu_s(proxy):
    return activity(proxy.processes())[1] / 1e9


def sampled(bench, world, front_name, *words):
    """Yields (name, what the load saw, CPU seconds of the balancer for it), A B C A B C."""
    front = world.fronts[front_name]
    for _ in range(bench.options.rounds):
        for name, proxy in world.proxies.items():
            bench.busy.append(proxies.quiet(SETTLE_S))
            before = cpu_s(proxy)
            try:
                found = ask(bench, name, proxy, front, *words)
            except BenchError as error:
                bench.problem(str(error))
                continue
            yield name, found, cpu_s(proxy) - before


def length(bench, full, quick="1s"):
    return quick if bench.options.quick else full


def requests(bench, world, key, label, front, *words, bar=True):
    """The three rows of a closed loop: rate, p99, CPU."""
    for name, found, used in sampled(bench, world, front, *words):
        if found["failed"] or not found["in_window"]:
            bench.problem(f"{name}, {label}: {found['failed']} failed: {found['failures']}")
            continue
        each = "connection" if words[0] == "churn" else "request"
        unit = "connections/s" if words[0] == "churn" else "requests/s"
        bench.put(Row(f"{key}", label, unit, 0, higher=True, barred=bar), name, found["in_window"] / found["window_s"])
        bench.put(Row(f"{key}_p99", "... p99", "ms", 2, rated_by=key, barred=bar), name, found["p99_us"] / 1e3)
        bench.put(Row(f"{key}_cpu", "... CPU of the balancer", f"us a {each}", 1), name, used * 1e6 / found["answered"])


def churn(bench):
    with World(bench, ("tcp", "unix")) as world:
        words = ("churn", "--clients", 32, "--for", length(bench, "2s"))
        requests(bench, world, "churn", "new connections, 32 at once, 64 bytes, close", "tcp", *words)
        requests(bench, world, "churn_unix", "the same, replicas at Unix sockets", "unix", *words, bar=False)


def keep(bench):
    with World(bench, ("tcp", "unix")) as world:
        for clients, size in KEEP:
            shown = "64-byte" if size == 64 else f"{size >> 10} KiB"
            label = f"{clients} kept connection{'s' if clients > 1 else ''}, {shown} answers"
            words = ("keep", "--clients", clients, "--answer", size, "--for", length(bench, "1500ms"))
            requests(bench, world, f"keep_{clients}_{size}", label, "tcp", *words)
        words = ("keep", "--clients", 64, "--answer", 64, "--for", length(bench, "1500ms"))
        requests(bench, world, "keep_unix", "64 kept, 64-byte answers, replicas at Unix sockets", "unix", *words, bar=False)


def bulk(bench):
    with World(bench, ("tcp", "unix"), bulk=True) as world:
        for key, streams, front, bar in (("bulk_1", 1, "bulk-tcp", True), ("bulk_16", 16, "bulk-tcp", True),
                                         ("bulk_unix_1", 1, "bulk-unix", False), ("bulk_unix_16", 16, "bulk-unix", False)):
            where = ", replicas at Unix sockets" if front == "bulk-unix" else ""
            label = f"download, {streams} stream{'s' if streams > 1 else ''}{where}"
            for name, found, used in sampled(bench, world, front, "bulk", "--streams", streams, "--for", length(bench, "2s")):
                if found["failed"]:
                    bench.problem(f"{name}, {label}: {found['failed']} streams broke off")
                    continue
                bench.put(Row(key, label, "GB/s", 2, higher=True, barred=bar), name, found["in_window"] / found["window_s"] / 1e9)
                bench.put(Row(f"{key}_cpu", "... CPU of the balancer", "s a GB", 3, barred=bar), name, used * 1e9 / found["bytes"])


def memory(bench):
    """Growth of the proportional set size with connections, of processes that have not served anything before."""
    count = 10_000 if proxies.descriptors_max() >= 20_000 + 2 * proxies.SPARE_DESCRIPTORS else 5_000
    count = 1_000 if bench.options.quick else count
    for _ in range(1 if bench.options.quick else 2):
        with World(bench) as world:
            for name, proxy in world.proxies.items():
                before = pss_kib(proxy.processes())
                with holding(bench, name, proxy, world.fronts["tcp"], count) as held:
                    if held["held"] != count:
                        bench.problem(f"{name}, idle connections: {held}")
                        continue
                    after = pss_kib(proxy.processes())
                row = Row("memory", f"memory a connection, {count:,} idle ones", "KiB PSS", 2)
                bench.put(row, name, (after - before) / count)
                bench.put(Row("memory_base", "... memory with none", "MiB PSS", 1), name, before / 1024)


def held(bench):
    """How many connections are held at once. The hard limit on descriptors bounds what a process can: two a connection."""
    wanted = min(HELD_WANTED, (proxies.descriptors_max() - proxies.SPARE_DESCRIPTORS) // 2)
    why = "" if wanted == HELD_WANTED else f" (the hard limit of {proxies.descriptors_max():,} descriptors allows no more)"
    with World(bench) as world:
        for name, proxy in world.proxies.items():
            with holding(bench, name, proxy, world.fronts["tcp"], wanted) as found:
                alive = found["ask_again"]()
            row = Row("held", f"of {wanted:,} idle connections{why}, held and answering again", "", 0, ratio=False, wanted=wanted)
            bench.put(row, name, alive["alive"])


@contextlib.contextmanager
def holding(bench, name, proxy, front, count):
    """`load idle` in its silent time; it is ended afterwards."""
    hold_s = 2 * IDLE_SETTLE_S + count / 10_000
    output = bench.harness.disk / f"idle-{bench.harness.rounds}-{name}-{count}"
    output.unlink(missing_ok=True)
    child = bench.harness.child([bench.load, "idle", "--to", proxy.to(front), "--count", str(count), "--hold", f"{int(hold_s * 1000)}ms"], output)
    try:
        found = json.loads(proxies.line_of(output, 0, 60, f"{name}: {count} connections"))
        proxies.quiet(IDLE_SETTLE_S)
        found["ask_again"] = lambda: json.loads(proxies.line_of(output, 1, 60, f"{name}: {count} connections asked again"))
        yield found
    finally:
        child.kill()
        # The balancer notices; the next one is measured without its work.
        proxies.quiet(IDLE_SETTLE_S)


def cross(bench):
    """The same with tools that everybody knows, where they are installed. No bar: their own CPU is the ceiling."""
    tools = [tool for tool in ("wrk", "iperf3") if shutil.which(tool)]
    if not tools:
        return
    with World(bench, cross=True) as world:
        if "iperf3" in tools:
            bench.harness.child([shutil.which("iperf3"), "-s", "-p", str(CROSS_PORT)], bench.harness.disk / "iperf3.out")
            wait_until(lambda: proxies.accepts(CROSS_PORT), 10, "iperf3 listens")
        for _ in range(bench.options.rounds):
            for name, proxy in world.proxies.items():
                if "wrk" in tools:
                    bench.put(Row("cross_wrk", "cross-check: wrk -t1 -c32, HTTP keep-alive", "requests/s", 0, higher=True), name, wrk(bench, proxy, world))
                if "iperf3" in tools:
                    bench.put(Row("cross_iperf", "cross-check: iperf3 -R, 1 stream", "GB/s", 2, higher=True), name, iperf(bench, proxy, world))


def wrk(bench, proxy, world):
    code, output = bench.harness.command([shutil.which("wrk"), "-t1", "-c32", "-d1s", f"http://{proxy.to(world.fronts['tcp'])}/"])
    lines = [line for line in output.splitlines() if line.startswith("Requests/sec:")]
    if code != 0 or not lines:
        raise BenchError(f"wrk against {proxy.name}: {output.strip()[-300:]}")
    return float(lines[0].split()[1])


def iperf(bench, proxy, world):
    port = str(proxy.port(world.fronts["iperf"]))
    code, output = bench.harness.command([shutil.which("iperf3"), "-c", "127.0.0.1", "-p", port, "-R", "-t", "1", "-J"])
    if code != 0:
        raise BenchError(f"iperf3 against {proxy.name}: {output.strip()[-300:]}")
    return json.loads(output)["end"]["sum_received"]["bits_per_second"] / 8e9


MEASURES = {"churn": churn, "keep": keep, "bulk": bulk, "memory": memory, "held": held, "cross": cross}
