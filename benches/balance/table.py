"""The tables and the bars of the specification."""

import dataclasses
import os
import pathlib
import platform
import resource
import statistics
import subprocess

import report
from report import distribution, linkage, package_version, read

OURS, REPLAY = "mainstay", "mainstay with replay"
PEERS = ("haproxy", "nginx")
#: Of the CPUs, by others, just before the median sample.
BUSY_SHARE_MAX = 0.1


@dataclasses.dataclass
class Row(report.Row):
    #: The specification has a bar for it.
    barred: bool = True
    #: A p99: held against that of the peer which is the better one in this row.
    rated_by: str = ""
    wanted: int = 0
    #: Failures by kind and how many requests there were, by balancer.
    notes: dict = dataclasses.field(default_factory=dict)

    def best_peer_name(self):
        known = [name for name in PEERS if self.values.get(name)]
        return (max if self.higher else min)(known, key=self.median) if known else None

    def best_peer(self):
        name = self.best_peer_name()
        return self.median(name) if name else None

    def total(self, name):
        return sum(self.values[name]) if self.values.get(name) else None

    @property
    def counts_failures(self):
        return bool(self.notes)


def ratio_bar(row, limit, peer=None):
    """(text, verdict or None)"""
    other = row.median(peer) if peer else row.best_peer()
    ratio = row.ratio_to(other)
    text = f"{'>=' if row.higher else '<='} {limit} x {peer or 'the better peer'}"
    return text, None if ratio is None else (ratio >= limit if row.higher else ratio <= limit)


def failure_bar(row):
    replayed, plain = row.total(REPLAY), row.total(OURS)
    both = row.key in ("fail_drained", "fail_agent", "fail_reload")
    if replayed is None or plain is None:
        return "0" + (" and 0" if both else " with replay"), None
    return ("0 and 0", replayed == 0 and plain == 0) if both else ("0 with replay", replayed == 0)


def bar_of(row, rows):
    """(text, True, False or None when it cannot be told); None: no bar."""
    if row.key.startswith("fail_"):
        return failure_bar(row) if row.counts_failures else None
    if not row.barred:
        return None
    ours = row.median(OURS)
    if row.rated_by:
        better = rows[row.rated_by].best_peer_name() if row.rated_by in rows else None
        limit = row.median(better) if better else None
        return f"<= that of {better or 'the better peer'}", None if ours is None or limit is None else ours <= limit
    if row.key.startswith("bulk_"):
        return ratio_bar(row, 0.8 if row.key.endswith("_cpu") else 1.0, "haproxy")
    if row.key == "memory":
        return "<= 0.5 KiB", None if ours is None else ours <= 0.5
    if row.key == "held":
        return f"{row.wanted:,}", None if ours is None else ours >= row.wanted
    if row.key == "churn" or (row.key.startswith("keep_") and not row.key.endswith("_cpu")):
        return ratio_bar(row, 1.1)
    return None


WORDS = {True: "PASS", False: "FAIL", None: "-"}


def verdict(row, rows):
    bar = bar_of(row, rows)
    return (bar[0], WORDS[bar[1]]) if bar else ("", "")


def label_of(row):
    return f"{row.label}, {row.unit}" if row.unit else row.label


def tables(rows):
    by_key = {row.key: row for row in rows}
    plain = [row for row in rows if not row.key.startswith("fail_")]
    failing = [row for row in rows if row.key.startswith("fail_")]
    return "\n\n".join(text for text in (rates_table(plain, by_key), failures_table(failing, by_key)) if text)


def rates_table(rows, by_key):
    if not rows:
        return ""
    lines = ["| measure | mainstay | haproxy | nginx | to the better peer | bar | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        best = row.ratio_to(row.best_peer()) if row.ratio else None
        cells = [label_of(row), row.cell(OURS)] + [row.cell(name) + row.ratio_cell(name) for name in PEERS]
        cells += [f"x{best:.2f}" if best is not None else "", *verdict(row, by_key)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures_table(rows, by_key):
    if not rows:
        return ""
    names = (REPLAY, OURS, *PEERS)
    lines = [f"| measure | {' | '.join(names)} | bar | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [label_of(row)] + [failed_cell(row, name) if row.counts_failures else row.cell(name) for name in names]
        lines.append("| " + " | ".join([*cells, *verdict(row, by_key)]) + " |")
    return "\n".join(lines)


def failed_cell(row, name):
    if row.total(name) is None:
        return "-"
    notes = row.notes.get(name, {})
    kinds = ", ".join(f"{count} {kind}" for kind, count in notes.items() if kind != "of")
    return f"{row.total(name):.0f} of {notes.get('of', 0):,}" + (f" ({kinds})" if kinds else "")


def missed(rows):
    by_key = {row.key: row for row in rows}
    found = []
    parent = ""
    for row in rows:
        if not row.label.startswith("..."):
            parent = row.label
        text, word = verdict(row, by_key)
        if word == "FAIL":
            found.append(f"{parent + ' ' + row.label if row.label.startswith('...') else row.label} (bar: {text})")
    return found


def as_json(rows):
    by_key = {row.key: row for row in rows}
    result = {}
    for row in rows:
        text, word = verdict(row, by_key)
        best = row.ratio_to(row.best_peer()) if row.ratio else None
        result[row.key] = {
            "label": row.label, "unit": row.unit, "higher_is_better": row.higher, "values": row.values,
            "medians": {name: row.median(name) for name in row.values}, "to_the_better_peer": best,
            "notes": row.notes, "bar": text or None, "verdict": {"PASS": "pass", "FAIL": "miss"}.get(word)}
    return result


def machine(binary):
    """Everything that a reader needs to doubt or repeat the figures."""
    cpu = next((line.partition(":")[2].strip() for line in read("/proc/cpuinfo").splitlines() if line.startswith("model name")), "unknown")
    memory_kib = int(read("/proc/meminfo").split()[1])
    versions = [f"{name} {package_version(name)}" for name in ("haproxy", "nginx", "libnginx-mod-stream", "wrk", "iperf3")]
    lines = [
        f"machine: {cpu}, {os.cpu_count()} CPUs, {memory_kib // (1 << 20)} GiB, Linux {platform.release()}, {distribution()}",
        f"load at the start: {os.getloadavg()[0]:.2f}; descriptors a process: {resource.getrlimit(resource.RLIMIT_NOFILE)[1]:,}",
        f"peers: {', '.join(versions)}",
    ]
    if binary:
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
        lines.append(f"mainstay: {version.stdout.strip() or 'version unknown'}, {pathlib.Path(binary).stat().st_size:,} bytes, {linkage(binary)}")
    return lines


def business(shares):
    if not shares:
        return "no samples of rates"
    remark = "; THE MACHINE WAS BUSY: its rates and p99 prove nothing" if statistics.median(shares) > BUSY_SHARE_MAX else ""
    return f"CPUs in use by others just before a sample: median {statistics.median(shares):.0%}, at most {max(shares):.0%}{remark}"
