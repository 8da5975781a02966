"""What is measured. Every function takes a peer and returns numbers in base units; nothing here knows what a good number is."""

import contextlib
import os
import random
import re
import signal
import statistics
import struct
import time

from harness import (COUNTS, KIND_FLOOD_BEGINS, KIND_IGNORES_TERM, KIND_MAIN, KIND_OWN_SESSION, BenchError, activity, kill_exactly,
                     pss_kib, read_process, wait_until)
from peers import STOP_TIMEOUT_S, fleet_of

SETTLE_S = 2.0
# runit starts a service again at once only when it had run for a second; all are given that.
UPTIME_BEFORE_KILL_S = 1.3
RESPAWN_DEADLINE_S = 30
INSTANT_EXITS = 300
MASS_KILL = 100
# runsvdir looks for runsv processes that are gone every five seconds.
AFTERMATH_S = 7
LINE_BYTES = 128
WRITERS = 20
LINES_PER_SECOND = 200
LINE = re.compile(rb"S(\d{4}) P(\d{10}) N(\d{12}) \.{95}\n")


def start_time(peer, harness, count, logged):
    """Seconds from the fork of the supervisor to the last service's main()."""
    with peer(harness, fleet_of(count, "start"), logged=logged) as fleet:
        return fleet.start() / 1e9


def at_rest(fleet, window_s):
    """Memory of the supervisor and what it does while nothing happens."""
    fleet.settled(RESPAWN_DEADLINE_S)
    time.sleep(SETTLE_S)
    processes = fleet.harness.supervisors()
    memory_kib = pss_kib(processes)
    before, began = activity(processes), time.monotonic()
    time.sleep(window_s)
    after, length = activity(processes), time.monotonic() - began
    gone = [process for process in processes if read_process(process.pid) is None]
    if gone:
        raise BenchError(f"{fleet.name}: {gone[0]} ended while it should be idle")
    return {
        "memory_mib": memory_kib / 1024,
        "processes": len(processes),
        "wakeups_per_s": (after[0] - before[0]) / length,
        "cpu_ms_per_s": (after[1] - before[1]) / 1e6 / length,
    }


def kill_and_wait(fleet, slots):
    """SIGKILL to the main process of these slots at once: seconds until each has a new main(), by slot."""
    latest, known = fleet.stamps.latest(), fleet.stamps.count()
    began = time.monotonic_ns()
    for slot in slots:
        os.kill(latest[slot].pid, signal.SIGKILL)
    fleet.stamps.wait_count(known + len(slots), RESPAWN_DEADLINE_S, f"{fleet.name}: respawn")
    came = {stamp.slot: stamp.at_ns for stamp in fleet.stamps.of(KIND_MAIN, skip=known)}
    missing = set(slots) - set(came)
    if missing:
        raise BenchError(f"{fleet.name}: others than the killed services were started, {sorted(missing)[:5]} were not")
    return {slot: (came[slot] - began) / 1e9 for slot in slots}


def respawn(peer, harness, count):
    """One kill of each of `count` services, one after the other: seconds each."""
    with peer(harness, fleet_of(count, "start")) as fleet:
        fleet.start()
        fleet.settled(RESPAWN_DEADLINE_S)
        time.sleep(UPTIME_BEFORE_KILL_S)
        delays = []
        for slot in range(count):
            delays.append(kill_and_wait(fleet, [slot])[slot])
            time.sleep(0.03)
        return delays


def fleet_life(peer, harness, count, window_s, mass_rounds):
    """One supervisor with `count` services: start, rest, then 100 of them killed at once."""
    with peer(harness, fleet_of(count, "start")) as fleet:
        result = {"start_s": fleet.start() / 1e9}
        result.update(at_rest(fleet, window_s))
        mass = []
        for _ in range(mass_rounds if count >= MASS_KILL else 0):
            step = count // MASS_KILL
            mass.append(max(kill_and_wait(fleet, list(range(0, step * MASS_KILL, step))).values()))
            time.sleep(UPTIME_BEFORE_KILL_S)
        if mass:
            result["mass_s"] = mass
        return result


def instant_exits(peer, harness):
    """Services that end as soon as they begin: how many started, how many ends the tool itself knows of."""
    with peer(harness, fleet_of(INSTANT_EXITS, "exit"), restart=False) as fleet:
        fleet.start()
        last, changed = -1, time.monotonic()
        while last < INSTANT_EXITS and time.monotonic() - changed < 5:
            seen = fleet.exits_seen()
            if seen != last:
                last, changed = seen, time.monotonic()
            time.sleep(0.05)
        # A count that goes on rising would be as wrong as one that stays behind.
        time.sleep(0.5)
        return {"started": len(fleet.stamps.of(KIND_MAIN)), "seen": fleet.exits_seen()}


def throughput(peer, harness, mib):
    """MB/s from a service's first write to its last byte in the log files, and whether every line is there."""
    lines = mib * (1 << 20) // LINE_BYTES
    with peer(harness, fleet_of(1, "flood", lines), logged=True) as fleet:
        fleet.start()
        service = fleet.services[0]
        wait_until(lambda: fleet.stamps.of(KIND_FLOOD_BEGINS), 20, f"{fleet.name}: the flood begins")
        cpu_before = activity(fleet.harness.supervisors())[1]
        wait_until(lambda: ends(fleet.log_files(service)), 300, f"{fleet.name}: the last line in the log", poll_s=0.001)
        arrived = time.monotonic_ns()
        cpu_s = (activity(fleet.harness.supervisors())[1] - cpu_before) / 1e9
        began = fleet.stamps.of(KIND_FLOOD_BEGINS)[0].at_ns
        found = sum(count_lines(path) for path in fleet.log_files(service))
        return {"mb_per_s": lines * LINE_BYTES / 1e6 / ((arrived - began) / 1e9), "cpu_s": cpu_s, "lines_lost": lines - found}


def ends(paths):
    """The line that says END is the last one of some file (the newest, but two may have the same time)."""
    for path in paths[-2:]:
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4 * LINE_BYTES))
            if b" END" in file.read():
                return True
    return False


def count_lines(path):
    """Lines of the service program in this file, whatever the receiver puts before them."""
    count, rest = 0, b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            cut = chunk.rfind(b"\n") + 1
            count += (rest + chunk[:cut]).count(b"....\n")
            rest = chunk[cut:]
    return count


def tree_stop(peer, harness):
    """Which of a service's three processes outlive its stop."""
    with peer(harness, fleet_of(1, "tree")) as fleet:
        fleet.start()
        wait_until(lambda: fleet.stamps.count() >= 3, 10, f"{fleet.name}: the whole tree")
        fleet.settled(RESPAWN_DEADLINE_S)
        tree = {stamp.kind: read_process(stamp.pid) for stamp in fleet.stamps.read()}
        began = time.monotonic()
        code, output = fleet.stop(fleet.services[0])
        took_s = time.monotonic() - began
        time.sleep(STOP_TIMEOUT_S + 2)
        alive = [kind for kind, process in tree.items() if process and still_there(process)]
        names = {KIND_MAIN: "main", KIND_IGNORES_TERM: "child", KIND_OWN_SESSION: "grandchild"}
        if KIND_MAIN in alive:
            raise BenchError(f"{fleet.name}: stop did nothing (exit code {code}): {output}")
        return {"survivors": len(alive), "which": [names[kind] for kind in alive], "took_s": took_s, "exit_code": code}


def still_there(process):
    """The same process lives, whoever its parent is by now."""
    now = read_process(process.pid)
    return now is not None and now.start_ticks == process.start_ticks


class Writers:
    """Services that write numbered lines, and the books they keep of it."""

    def __init__(self, fleet, counts):
        self.fleet, self.counts = fleet, counts

    def originals(self):
        """slot -> the process that was started first."""
        first = {}
        for stamp in self.fleet.stamps.of(KIND_MAIN):
            first.setdefault(stamp.slot, stamp)
        return first

    def census(self, originals):
        """(services whose first process is gone, processes beyond one a slot) as they live now."""
        alive = {process.pid for process in self.fleet.harness.services()}
        slots = {}
        for stamp in self.fleet.stamps.of(KIND_MAIN):
            if stamp.pid in alive:
                slots.setdefault(stamp.slot, set()).add(stamp.pid)
        lost = sum(1 for slot, stamp in originals.items() if stamp.pid not in slots.get(slot, ()))
        return lost, sum(max(0, len(pids) - 1) for pids in slots.values())

    def books(self):
        """pid -> (lines accepted by write(), lines refused, stop asked, stopped)."""
        found = {}
        for path in self.counts.parent.glob(self.counts.name + ".*"):
            found[int(path.suffix[1:])] = COUNTS.unpack(path.read_bytes()[: COUNTS.size])
        return found

    def silence(self, deadline_s):
        """Asks every writer to stop; a writer that is held by a full pipe nobody reads cannot answer and is left."""
        alive = {process.pid for process in self.fleet.harness.services()}
        paths = [path for path in self.counts.parent.glob(self.counts.name + ".*") if int(path.suffix[1:]) in alive]
        for path in paths:
            with open(path, "r+b") as file:
                file.seek(16)
                file.write(struct.pack("<Q", 1))
        with contextlib.suppress(BenchError):
            wait_until(lambda: all(COUNTS.unpack(path.read_bytes()[: COUNTS.size])[3] for path in paths), deadline_s, "silence", 0.02)

    def written_lines(self):
        """(pid -> set of numbers found in the log files, lines found twice)."""
        found, twice = {}, 0
        for service in self.fleet.services:
            for path in self.fleet.log_files(service):
                for _, pid, number in LINE.findall(path.read_bytes()):
                    numbers = found.setdefault(int(pid), set())
                    twice += int(number) in numbers
                    numbers.add(int(number))
        return found, twice

    def account(self, deadline_s):
        """Bytes accepted by write() that are in no log file, bytes refused, lines twice; waits for receivers that are still at it."""
        end = time.monotonic() + deadline_s
        while True:
            found, twice = self.written_lines()
            books = self.books()
            lost = sum(len(set(range(accepted)) - found.get(pid, set())) for pid, (accepted, _, _, _) in books.items())
            if lost == 0 or time.monotonic() > end:
                refused = sum(book[1] for book in books.values())
                return {
                    "lines": sum(book[0] for book in books.values()), "bytes_lost": lost * LINE_BYTES,
                    "bytes_refused": refused * LINE_BYTES, "lines_twice": twice}
            time.sleep(0.2)


@contextlib.contextmanager
def writing_fleet(peer, harness):
    counts = harness.state / f"counts-{harness.rounds}"
    with peer(harness, fleet_of(WRITERS, "lines", counts, LINES_PER_SECOND), logged=True) as fleet:
        fleet.start()
        fleet.settled(RESPAWN_DEADLINE_S)
        yield fleet, Writers(fleet, counts)


def kill_peer(peer, harness, leaf):
    """One death of a supervisor (or of all its leaf supervisors) under load, a new one in its place: what became of the services."""
    with writing_fleet(peer, harness) as (fleet, writers):
        time.sleep(UPTIME_BEFORE_KILL_S)
        originals = writers.originals()
        if leaf:
            victims = set(fleet.leaf_pids())
            for process in fleet.harness.supervisors():
                if process.pid in victims:
                    kill_exactly(process)
        else:
            fleet.child.kill()
            time.sleep(0.1)
            fleet.launch()
        time.sleep(AFTERMATH_S)
        lost, duplicates = writers.census(originals)
        writers.silence(2)
        return {"lost": lost, "duplicates": duplicates, **writers.account(2)}


def kill_everything(fleet):
    """The agent and all its roles at once; none of them can restart another."""
    victims = fleet.harness.supervisors()
    for process in victims:
        kill_exactly(process)
    fleet.child.kill()
    wait_until(lambda: not any(still_there(process) for process in victims), 10, "the roles outlive SIGKILL")


def kill_agent(peer, harness, rounds, seed, roles_too=False):
    """SIGKILL of the agent again and again under load; every other time before the new one can have adopted anything."""
    rng = random.Random(seed)
    with writing_fleet(peer, harness) as (fleet, writers):
        originals = writers.originals()
        lost = duplicates = 0
        back = []
        for number in range(rounds):
            if roles_too:
                kill_everything(fleet)
            else:
                fleet.child.kill()
            began = time.monotonic()
            fleet.start_again()
            if number % 2 and number + 1 < rounds:
                time.sleep(rng.uniform(0, 0.06))
            else:
                fleet.settled(RESPAWN_DEADLINE_S)
                back.append(time.monotonic() - began)
                time.sleep(rng.uniform(0, 0.1))
            now = writers.census(originals)
            lost, duplicates = max(lost, now[0]), max(duplicates, now[1])
            if fleet.agent_gone() is not None:
                raise BenchError(f"round {number}: the new agent ended with code {fleet.agent_gone()}: {fleet.last_words()}")
        fleet.settled(RESPAWN_DEADLINE_S)
        started = len(fleet.stamps.of(KIND_MAIN)) - len(originals)
        writers.silence(5)
        return {
            "lost": lost, "duplicates": duplicates, "started_again": started, "rounds": rounds,
            "adopted_s": statistics.median(back), **writers.account(10)}
