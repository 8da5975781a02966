"""What every measure stands on: processes and how they are found and ended, stamps, /proc readings.

The harness makes itself the subreaper, so whatever a supervisor forks and forgets stays its descendant. Cleaning up is therefore exact:
every descendant is ended through a pidfd, nothing is ever looked up by name.
"""

import contextlib
import ctypes
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time

PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.003
START_DEADLINE_S = 90
CLEANUP_DEADLINE_S = 30
COMMAND_DEADLINE_S = 40
STATUSES_MAX = 100_000
STAMP = struct.Struct("<IIQII")
COUNTS = struct.Struct("<QQQQ")
KIND_MAIN, KIND_IGNORES_TERM, KIND_OWN_SESSION, KIND_FLOOD_BEGINS, KIND_FLOOD_WRITTEN = range(5)


class BenchError(Exception):
    """The measure could not be taken; the text says why."""


@dataclasses.dataclass(frozen=True)
class Stamped:
    slot: int
    pid: int
    at_ns: int
    kind: int


@dataclasses.dataclass(frozen=True)
class Process:
    pid: int
    ppid: int
    start_ticks: int
    exe: str


def wait_until(condition, deadline_s, what, poll_s=POLL_S):
    """Calls `condition` until it answers something true, and returns that."""
    end = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {deadline_s} s")
        time.sleep(poll_s)


class Reaper(threading.Thread):
    """Reaps like an init: at once, whoever it is. Exit statuses of our own commands are kept for who asks."""

    def __init__(self):
        super().__init__(daemon=True)
        self.statuses = {}
        self.changed = threading.Condition()

    def run(self):
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.005)
                continue
            with self.changed:
                if len(self.statuses) >= STATUSES_MAX:
                    self.statuses.clear()
                self.statuses[pid] = (time.monotonic(), os.waitstatus_to_exitcode(status))
                self.changed.notify_all()

    def status(self, pid, since, timeout_s):
        """The exit code of a child that was started at `since`; None when it lives on. A number used before is not mistaken for it."""
        def ended():
            entry = self.statuses.get(pid)
            return entry if entry and entry[0] >= since else None

        with self.changed:
            self.changed.wait_for(ended, timeout_s)
            entry = ended()
            return entry[1] if entry else None


class Child:
    """A supervisor or a command that the harness started."""

    def __init__(self, reaper, argv, stdout, env):
        self.reaper = reaper
        self.started = time.monotonic()
        self.started_ns = time.monotonic_ns()
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.STDOUT, start_new_session=True, env=env)
        # The reaper collects it; without this, Popen would complain at its end.
        self.process.returncode = 0
        self.pid = self.process.pid

    def exit_code(self, timeout_s=0):
        return self.reaper.status(self.pid, self.started, timeout_s)

    def kill(self):
        """SIGKILL, and waits until the kernel has taken it away."""
        if self.exit_code() is None:
            # It may have ended, and been reaped, since.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self.exit_code(10) is None:
            raise BenchError(f"process {self.pid} outlived SIGKILL by 10 s")


class Harness:
    """One run of the benchmark: its directories, its children."""

    def __init__(self):
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise BenchError("cannot become the subreaper")
        self.reaper = Reaper()
        self.reaper.start()
        # What a host keeps below /run is on a tmpfs here as well, and log files are on a disk: for every supervisor alike.
        shm = pathlib.Path("/dev/shm")
        state_parent = shm if os.access(shm, os.W_OK) else None
        self.state = pathlib.Path(tempfile.mkdtemp(prefix="mainstay-bench-", dir=state_parent))
        self.disk = pathlib.Path(tempfile.mkdtemp(prefix="mainstay-bench-"))
        self.stamp_exe = str(self.disk / "stamp")
        self.rounds = 0
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": str(self.disk)}

    def build_stamp(self, source):
        """The static binary where rustc has the musl target, else the host's."""
        base = ["rustc", "--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols", "-o", self.stamp_exe, str(source)]
        errors = []
        for target in (["--target", f"{os.uname().machine}-unknown-linux-musl"], []):
            done = self.command(base + target, env=os.environ.copy(), deadline_s=180)
            if done[0] == 0:
                return "static musl" if target else "dynamic, the musl target is missing"
            errors.append(done[1])
        raise BenchError("cannot build stamp.rs: " + "\n".join(errors))

    def round(self, name):
        """Fresh directories for one supervisor's life: (state on tmpfs, logs on disk)."""
        self.rounds += 1
        state, disk = self.state / f"{self.rounds}-{name}", self.disk / f"{self.rounds}-{name}"
        state.mkdir()
        disk.mkdir()
        return state, disk

    def child(self, argv, output, env=None):
        with open(output, "ab") as file:
            return Child(self.reaper, argv, file, env or self.env)

    def command(self, argv, env=None, deadline_s=COMMAND_DEADLINE_S):
        """Runs a client to its end: (exit code, its output). A client that does not end is killed and answers None."""
        with tempfile.TemporaryFile() as output:
            child = Child(self.reaper, argv, output, env or self.env)
            code = child.exit_code(deadline_s)
            if code is None:
                child.kill()
            output.seek(0)
            return code, output.read().decode(errors="replace")

    def descendants(self):
        """Every living process below the harness, zombies left out."""
        table = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                found = read_process(int(entry))
                if found:
                    table[found.pid] = found
        children = {}
        for process in table.values():
            children.setdefault(process.ppid, []).append(process)
        found, queue = [], [os.getpid()]
        while queue:
            for process in children.get(queue.pop(), []):
                found.append(process)
                queue.append(process.pid)
        return found

    def supervisors(self):
        """The descendants that are not the service program: the supervisor with all its helpers."""
        return [process for process in self.descendants() if process.exe != self.stamp_exe]

    def services(self):
        return [process for process in self.descendants() if process.exe == self.stamp_exe]

    def end_all(self):
        """Ends every descendant, supervisors first, until none is left."""
        end = time.monotonic() + CLEANUP_DEADLINE_S
        while True:
            left = self.descendants()
            if not left:
                return
            for process in sorted(left, key=lambda process: process.exe == self.stamp_exe):
                kill_exactly(process)
            if time.monotonic() > end:
                raise BenchError(f"{len(left)} processes outlive SIGKILL, the first is {left[0]}")
            time.sleep(0.02)

    def forget_round(self, *directories):
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)

    def close(self):
        self.end_all()
        self.forget_round(self.state, self.disk)


def read_process(pid):
    """None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            fields = file.read().rsplit(") ", 1)[1].split()
        if fields[0] in "ZX":
            return None
        return Process(pid, int(fields[1]), int(fields[19]), os.readlink(f"/proc/{pid}/exe"))
    except (OSError, IndexError):
        return None


def kill_exactly(process):
    """SIGKILL to this process and to no later owner of its number: the descriptor first, then the identity, then the signal."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = read_process(process.pid)
        if now and now.start_ticks == process.start_ticks:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:
        pass  # It ended meanwhile, which is what was wanted.
    finally:
        os.close(descriptor)


class Stamps:
    """The file that the service program appends to."""

    def __init__(self, path):
        self.path = path
        path.touch()

    def count(self):
        return os.path.getsize(self.path) // STAMP.size

    def read(self):
        data = self.path.read_bytes()
        data = data[: len(data) - len(data) % STAMP.size]
        return [Stamped(slot, pid, at, kind) for slot, pid, at, kind, _ in STAMP.iter_unpack(data)]

    def of(self, kind, skip=0):
        return [stamp for stamp in self.read()[skip:] if stamp.kind == kind]

    def latest(self):
        """slot -> its newest main process."""
        return {stamp.slot: stamp for stamp in self.of(KIND_MAIN)}

    def wait_count(self, count, deadline_s, what):
        wait_until(lambda: self.count() >= count, deadline_s, f"{what}: {count} starts")


def pss_kib(processes):
    """Proportional set size of all of them, which counts a shared page once."""
    total = 0
    for process in processes:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            total += int(re.search(r"^Pss:\s+(\d+) kB", file.read(), re.MULTILINE).group(1))
    return total


def activity(processes):
    """(context switches, CPU nanoseconds) of all threads since they began: a thread that never wakes adds nothing."""
    switches = cpu_ns = 0
    for process in processes:
        for task in os.listdir(f"/proc/{process.pid}/task"):
            base = f"/proc/{process.pid}/task/{task}"
            with open(f"{base}/status", encoding="ascii", errors="replace") as file:
                switches += sum(int(n) for n in re.findall(r"ctxt_switches:\s+(\d+)", file.read()))
            with open(f"{base}/schedstat", encoding="ascii") as file:
                cpu_ns += int(file.read().split()[0])
    return switches, cpu_ns
