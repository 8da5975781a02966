"""The supervisors, each driven as its own manual says. `benches/README.md` explains every choice made here."""

import dataclasses
import os
import pathlib
import re

from harness import BenchError, START_DEADLINE_S, Stamps

# No receiver may delete what the benchmark still has to count.
LOG_FILE_BYTES = 100_000_000
LOG_FILES = 20
STOP_TIMEOUT_S = 3


@dataclasses.dataclass(frozen=True)
class Service:
    name: str
    slot: int
    mode: str
    arguments: tuple = ()


def fleet_of(count, mode, *arguments):
    return [Service(f"s{slot:04}", slot, mode, tuple(str(word) for word in arguments)) for slot in range(count)]


class Fleet:
    """One supervisor with its services. `logged`: each service has a log receiver of its own kind (where that is a choice)."""

    name = ""
    #: What `kill` may aim at besides the supervisor itself.
    leaf = None
    #: A service says it is ready by a newline on descriptor 3.
    ready_fd = False

    def __init__(self, harness, services, logged=False, restart=True):
        self.harness, self.services, self.logged, self.restart = harness, services, logged, restart
        self.state, self.disk = harness.round(self.name)
        self.stamps = Stamps(self.state / "stamps")
        self.output = self.disk / "supervisor.out"
        self.child = None
        self.configure()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.harness.end_all()
        self.remove()
        self.harness.forget_round(self.state, self.disk)

    def argv(self, service):
        words = [self.harness.stamp_exe, service.mode, str(self.stamps.path), str(service.slot), *service.arguments]
        return words + ["fd=3"] if self.ready_fd else words

    def launch(self):
        """Starts the supervisor; the result is the moment before its fork."""
        self.child = self.harness.child(self.command(), self.output, self.environment())
        return self.child.started_ns

    def start(self):
        """Starts the supervisor and waits for every service's main(): the nanoseconds until the last one."""
        began = self.launch()
        try:
            self.stamps.wait_count(len(self.services), START_DEADLINE_S, self.name)
        except BenchError as error:
            raise BenchError(f"{error}; {self.stamps.count()} came; its last words: {self.last_words()}") from error
        return max(stamp.at_ns for stamp in self.stamps.latest().values()) - began

    def last_words(self):
        return self.output.read_text(errors="replace")[-600:]

    def environment(self):
        return self.harness.env

    def remove(self):
        """What lies outside the two directories."""

    def settled(self, deadline_s):
        """Waits until the supervisor itself considers every service up, where it can be asked."""

    def leaf_pids(self):
        return [process.pid for process in self.harness.supervisors() if os.path.basename(process.exe) == self.leaf]

    def configure(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def stop(self, service):
        """Asks for the service to be stopped, with the means that the tool has for it: (exit code, output)."""
        raise NotImplementedError

    def exits_seen(self):
        """How many exits of its services the tool itself has noticed."""
        raise NotImplementedError

    def log_files(self, service):
        """Oldest first."""
        raise NotImplementedError


def write_script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def by_age(directory, pattern):
    """Log files, oldest first; one that is rotated away while we look is left to the next look."""
    found = []
    for path in pathlib.Path(directory).glob(pattern):
        try:
            found.append((path.stat().st_mtime_ns, path))
        except FileNotFoundError:
            continue
    return [path for _, path in sorted(found)]


class Scanned(Fleet):
    """runit and s6: a directory of service directories."""

    def configure(self):
        self.scan = self.state / "service"
        self.scan.mkdir()
        self.seen = self.state / "seen"
        for service in self.services:
            directory = self.scan / service.name
            directory.mkdir()
            write_script(directory / "run", "exec " + " ".join(self.argv(service)) + "\n")
            if not self.restart:
                write_script(directory / "finish", f"echo {service.name} >>{self.seen}\n" + self.stay_down())
            if self.logged:
                (directory / "log").mkdir()
                (self.disk / service.name).mkdir()
                self.configure_log(directory / "log", self.disk / service.name)
            self.configure_more(directory)

    def exits_seen(self):
        return len(self.seen.read_text().splitlines()) if self.seen.exists() else 0

    def stay_down(self):
        raise NotImplementedError

    def configure_log(self, directory, target):
        raise NotImplementedError

    def configure_more(self, directory):
        pass


class Runit(Scanned):
    name, leaf = "runit", "runsv"

    def command(self):
        return ["runsvdir", "-P", str(self.scan)]

    def configure_log(self, directory, target):
        (target / "config").write_text(f"s{LOG_FILE_BYTES}\nn{LOG_FILES}\n")
        write_script(directory / "run", f"exec svlogd {target}\n")

    def stay_down(self):
        return "printf d >supervise/control\n"

    def stop(self, service):
        return self.harness.command(["sv", "-w", str(STOP_TIMEOUT_S), "force-stop", str(self.scan / service.name)])

    def log_files(self, service):
        directory = self.disk / service.name
        return by_age(directory, "@*") + by_age(directory, "current")


class S6(Scanned):
    name, leaf, ready_fd = "s6", "s6-supervise", True

    def command(self):
        return ["s6-svscan", "-c", str(max(100, 2 * len(self.services) + 10)), "-t", "0", str(self.scan)]

    def configure_log(self, directory, target):
        write_script(directory / "run", f"exec s6-log n{LOG_FILES} s{LOG_FILE_BYTES} {target}\n")

    def configure_more(self, directory):
        (directory / "notification-fd").write_text("3\n")
        (directory / "timeout-kill").write_text(f"{STOP_TIMEOUT_S * 1000}\n")
        # Understood by later versions only, which then kill the whole process group.
        (directory / "flag-timeout-killpg").touch()

    def stay_down(self):
        return "exit 125\n"

    def stop(self, service):
        wait_ms = str((STOP_TIMEOUT_S + 5) * 1000)
        return self.harness.command(["s6-svc", "-wD", "-T", wait_ms, "-d", str(self.scan / service.name)])

    def log_files(self, service):
        directory = self.disk / service.name
        return by_age(directory, "@*") + by_age(directory, "current")


class Supervisord(Fleet):
    name = "supervisord"

    def configure(self):
        self.log, socket = self.disk / "supervisord.log", self.state / "socket"
        self.config = self.state / "supervisord.conf"
        parts = [
            f"[supervisord]\nnodaemon=true\nlogfile={self.log}\nlogfile_maxbytes=0\npidfile={self.state}/pid\n"
            f"childlogdir={self.disk}\nminfds={len(self.services) * 4 + 1024}\n",
            f"[unix_http_server]\nfile={socket}\n",
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n",
            f"[supervisorctl]\nserverurl=unix://{socket}\n",
        ]
        restart = "true" if self.restart else "false"
        for service in self.services:
            parts.append(
                f"[program:{service.name}]\ncommand={' '.join(self.argv(service))}\nstartsecs=0\nautorestart={restart}\n"
                f"exitcodes=0,7\nstopasgroup=true\nkillasgroup=true\nstopwaitsecs={STOP_TIMEOUT_S}\nredirect_stderr=true\n"
                f"stdout_logfile={self.disk}/{service.name}.log\nstdout_logfile_maxbytes={LOG_FILE_BYTES}\n"
                f"stdout_logfile_backups={LOG_FILES}\n")
        self.config.write_text("\n".join(parts))

    def command(self):
        return ["supervisord", "-c", str(self.config)]

    def stop(self, service):
        return self.harness.command(["supervisorctl", "-c", str(self.config), "stop", service.name])

    def exits_seen(self):
        return len(re.findall(r"^\S+ \S+ \S+ exited: ", self.log.read_text(), re.MULTILINE)) if self.log.exists() else 0

    def log_files(self, service):
        return by_age(self.disk, f"{service.name}.log*")


def peer_classes():
    return {peer.name: peer for peer in (Runit, S6, Supervisord)}
