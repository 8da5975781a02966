"""How long a service that writes all the time stands still while it is copied: `quiesce: Freeze`, by the agent, from an XFS to another one."""

import math
import os
import pathlib
import re
import subprocess
import sys
import time

from disks import Unmeasurable, say, run, xfs

COPIES = 30
STILL_MS_MAX = 50
#: The first copy is of files that lie still; the service writes to some of them.
FILES = 2000
LARGE_MIB = 64
START_DEADLINE_S = 30
END_DEADLINE_S = 120

#: Writes a page of a large file, and appends to another, again and again; says when it could not for 2 ms or more: at what time, and for how many ms.
WRITER = """
import os, sys, time
large = os.open(sys.argv[1] + "/large", os.O_RDWR)
log = os.open(sys.argv[1] + "/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
gaps = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
pages, page, last = os.fstat(large).st_size // 4096, 0, time.monotonic()
while True:
    os.pwrite(large, os.urandom(4096), page * 7919 % pages * 4096)
    os.write(log, b"x" * 100)
    page += 1
    now = time.monotonic()
    if now - last >= 0.002:
        os.write(gaps, f"{now} {(now - last) * 1000}\\n".encode())
    last = now
    time.sleep(0.0005)
"""


def fill(source):
    source.mkdir()
    for index in range(FILES):
        (source / f"f{index}").write_bytes(os.urandom(4096))
    with open(source / "large", "wb") as file:
        for _ in range(LARGE_MIB):
            file.write(os.urandom(1 << 20))


def configure(base, source, target, gaps):
    (base / "writer.py").write_text(WRITER)
    config = base / "mainstay.ron"
    config.write_text(
        f'(agent: (run_dir: "{base}/run", state_dir: "{base}/state", log_dir: "{base}/log", default_checks: false),\n'
        f' services: [(name: "writer", command: ["{sys.executable}", "{base}/writer.py", "{source}", "{gaps}"])],\n'
        f' copies: [(name: "bench", from: ["{source}"], to: "{target}", same_disk: true, every: None,\n'
        f'           keep: (last: {COPIES + 5}), quiesce: Freeze("writer", max: "10s"))])\n')
    config.chmod(0o600)
    return config


def longest(gaps, began, ended):
    """Of the gaps that ended within, in ms."""
    found = [line.split() for line in gaps.read_text().splitlines()] if gaps.exists() else []
    return max((float(long) for at, long in found if began <= float(at) <= ended), default=0.0)


def begun(binary, config, said):
    """The agent, once it answers and the service writes."""
    with open(said, "wb") as log:
        agent = subprocess.Popen([binary, "run", "--config", config], stdout=subprocess.DEVNULL, stderr=log,
                                 env={**os.environ, "RUST_LOG": "debug"})
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and agent.poll() is None:
        if subprocess.run([binary, "status", "--config", config], check=False, capture_output=True).returncode == 0:
            return agent
        time.sleep(0.1)
    agent.terminate()
    agent.wait(END_DEADLINE_S)
    raise Unmeasurable("the agent does not answer")


def measure(binary, work):
    """[(passed, what)]"""
    base = work / "freeze"
    base.mkdir()
    # Not on the disks that are measured.
    gaps = pathlib.Path("/dev/shm") / f"mainstay-bench-gaps-{os.getpid()}"
    said = gaps.with_name(gaps.name + ".log")
    try:
        with xfs(base / "source.img", 1024) as source, xfs(base / "target.img", 8192) as target:
            fill(source.path / "data")
            (target.path / "to").mkdir()
            config = configure(base, source.path / "data", target.path / "to", gaps)
            run([binary, "copies", "init", "bench", "--config", config])
            agent = begun(binary, config, said)
            try:
                still, moving = rounds(binary, config, gaps)
            finally:
                # It ends what it started before it ends.
                agent.terminate()
                agent.wait(END_DEADLINE_S)
            held = [float(ms) for ms in re.findall(r"held still for (\d+)ms", said.read_text(errors="replace"))]
    finally:
        gaps.unlink(missing_ok=True)
        said.unlink(missing_ok=True)
    if len(held) < COPIES:
        raise Unmeasurable(f"the agent tells of {len(held)} copies for which it held the service still, not of {COPIES}")
    text = (f"a service that writes all the time, XFS to XFS, {COPIES} copies: held still for p99 {at(99, held):.0f} ms, median {at(50, held):.0f} ms, "
            f"at most {STILL_MS_MAX}; the longest gap between two of its writes: p99 {at(99, still):.1f} ms, median {at(50, still):.1f} ms; "
            f"for as long without a copy: p99 {at(99, moving):.1f} ms, median {at(50, moving):.1f} ms")
    say(text)
    return [(at(99, held) < STILL_MS_MAX, text)]


def at(percent, figures):
    return sorted(figures)[max(0, math.ceil(percent / 100 * len(figures)) - 1)]


def rounds(binary, config, gaps):
    """The longest gap of each copy but the first, and of as long without."""
    still, moving = [], []
    for number in range(COPIES + 1):
        began = time.monotonic()
        run([binary, "copies", "run", "bench", "--config", config])
        ended = time.monotonic()
        time.sleep(ended - began)
        if number > 0:
            still.append(longest(gaps, began, ended))
            moving.append(longest(gaps, ended, time.monotonic()))
    return still, moving
