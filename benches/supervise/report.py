"""The table, the bars of the specification, the machine."""

import dataclasses
import os
import pathlib
import platform
import statistics
import subprocess

PEERS = ("runit", "s6", "supervisord")
OURS = "mainstay"


@dataclasses.dataclass
class Row:
    """One line: values of each supervisor; more than one value is shown as median (least-most)."""

    key: str
    label: str
    unit: str
    digits: int = 2
    #: Bigger is better.
    higher: bool = False
    #: Counts of things gone wrong: a ratio would say nothing.
    ratio: bool = True
    values: dict = dataclasses.field(default_factory=dict)
    #: Shown in place of the numbers, by supervisor.
    texts: dict = dataclasses.field(default_factory=dict)

    def median(self, name):
        found = self.values.get(name)
        return statistics.median(found) if found else None

    def best_peer(self):
        medians = [self.median(name) for name in PEERS if self.values.get(name)]
        return (max if self.higher else min)(medians) if medians else None

    def ratio_to(self, other):
        """mainstay's figure as a multiple of this one."""
        ours = self.median(OURS)
        return ours / other if ours is not None and other else None

    def cell(self, name):
        if name in self.texts:
            return self.texts[name]
        middle = self.median(name)
        if middle is None:
            return "-"
        text = f"{middle:.{self.digits}f}"
        if min(self.values[name]) < max(self.values[name]):
            text += f" ({min(self.values[name]):.{self.digits}f}-{max(self.values[name]):.{self.digits}f})"
        return text

    def ratio_cell(self, name):
        ratio = self.ratio_to(self.median(name)) if self.ratio and self.median(name) is not None else None
        return f" x{ratio:.2g}" if ratio is not None else ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """What the specification demands of mainstay in this row."""

    key: str
    text: str
    holds: object


def at_most(ratio, limit):
    """None when there was nothing to compare with."""
    return None if ratio is None else ratio <= limit


BARS = (
    Bar("start_logged", "<= 0.5 x best peer", lambda row: at_most(row.ratio_to(row.best_peer()), 0.5)),
    Bar("respawn", "<= 0.6 x runit", lambda row: at_most(row.ratio_to(row.median("runit")), 0.6)),
    Bar("mass", "<= 250 ms", lambda row: row.median(OURS) <= 250),
    Bar("exits", "300 of 300", lambda row: row.median(OURS) == 300),
    Bar("memory_1", "<= 4 MiB", lambda row: row.median(OURS) <= 4),
    Bar("memory_1000", "<= 8 MiB", lambda row: row.median(OURS) <= 8),
    Bar("wakeups_1", "0", lambda row: row.median(OURS) == 0),
    Bar("wakeups_1000", "0", lambda row: row.median(OURS) == 0),
    Bar("throughput", ">= 300 MB/s", lambda row: row.median(OURS) >= 300),
    Bar("throughput_lost", "0", lambda row: max(row.values[OURS]) == 0),
    Bar("stop", "0", lambda row: max(row.values[OURS]) == 0),
    Bar("kill_lost", "0", lambda row: max(row.values[OURS]) == 0),
    Bar("kill_duplicates", "0", lambda row: max(row.values[OURS]) == 0),
    Bar("kill_bytes", "0", lambda row: max(row.values[OURS]) == 0),
)


def verdict(row):
    """(the bar's text, PASS, FAIL or -)"""
    for bar in BARS:
        if bar.key == row.key:
            if not row.values.get(OURS):
                return bar.text, "-"
            return bar.text, {True: "PASS", False: "FAIL", None: "-"}[bar.holds(row)]
    return "", ""


def table(rows):
    """Markdown; after each peer's figure, mainstay's as a multiple of it."""
    lines = ["| measure | mainstay | runit | s6 | supervisord | to the best peer | bar | |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        best = row.ratio_to(row.best_peer()) if row.ratio else None
        text, word = verdict(row)
        label = f"{row.label}, {row.unit}" if row.unit else row.label
        cells = [label, row.cell(OURS)] + [row.cell(name) + row.ratio_cell(name) for name in PEERS]
        cells += [f"x{best:.2g}" if best is not None else "", text, word]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(rows):
    return [row.label for row in rows if verdict(row)[1] == "FAIL"]


def machine(binary, stamp_kind, harness):
    """Everything that a reader needs to doubt or repeat the figures."""
    cpu = next((line.partition(":")[2].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")), "unknown")
    memory_kib = int(read("/proc/meminfo").split()[1])
    versions = [f"{name} {package_version(name)}" for name in ("runit", "s6", "supervisor")]
    lines = [
        f"machine: {cpu}, {os.cpu_count()} CPUs, {memory_kib // (1 << 20)} GiB, Linux {platform.release()}, {distribution()}",
        f"load at the start: {os.getloadavg()[0]:.2f}",
        f"peers: {', '.join(versions)}; Python {platform.python_version()}",
        f"state on {file_system(harness.state)}, logs on {file_system(harness.disk)}; service program: {stamp_kind}",
    ]
    if binary:
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
        lines.insert(2, f"mainstay: {version.stdout.strip() or 'version unknown'}, {os.path.getsize(binary):,} bytes, {linkage(binary)}")
    return lines


def read(path):
    return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")


def distribution():
    for line in read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return "unknown distribution"


def package_version(name):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True, check=False)
    return found.stdout or "(not a Debian package)"


def file_system(path):
    """Its type, by the longest mount point that leads to it."""
    best = ("", "?")
    for line in read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        if (str(path) + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best[0]):
            best = (point, right.split()[0])
    return best[1]


def linkage(binary):
    """PT_INTERP is program header type 3: a binary without one is static."""
    data = pathlib.Path(binary).read_bytes()[: 1 << 16]
    offset, size, count = (int.from_bytes(data[at:to], "little") for at, to in ((32, 40), (54, 56), (56, 58)))
    types = [int.from_bytes(data[offset + index * size:][:4], "little") for index in range(count)]
    return "dynamic: figures are not those of the published binary" if 3 in types else "static"
