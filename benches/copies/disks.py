"""What the sections have in common: commands that are measured, and file systems in a file."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time


class Unmeasurable(Exception):
    pass


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(argv, env=None, allowed=(0,)):
    """(seconds, peak MiB) of a command; what it says goes nowhere unless it fails."""
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = subprocess.Popen([str(word) for word in argv], stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in allowed:
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace")
            raise Unmeasurable(f"{argv[0]} {argv[1]}: exit code {process.returncode}: {said}")
    return seconds, usage.ru_maxrss / 1024


class Disk:
    """A mounted loop device."""

    def __init__(self, path, device):
        self.path, self.device = path, device

    def written_bytes(self):
        """Since it was there; the seventh figure counts sectors of 512 bytes."""
        os.sync()
        return int(pathlib.Path(f"/sys/block/{self.device.name}/stat").read_text().split()[6]) * 512


@contextlib.contextmanager
def xfs(image, mib):
    """An XFS that can share extents, in a file."""
    if os.geteuid() != 0:
        raise Unmeasurable("a file system in a file needs root")
    where = image.with_suffix(".mnt")
    where.mkdir()
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    run(["mkfs.xfs", "-q", "-m", "reflink=1", image])
    device = subprocess.run(["losetup", "--find", "--show", image], check=False, capture_output=True, text=True)
    if device.returncode != 0:
        raise Unmeasurable(f"no loop device: {device.stderr.strip()}")
    device = pathlib.Path(device.stdout.strip())
    try:
        run(["mount", device, where])
        try:
            yield Disk(where, device)
        finally:
            run(["umount", where])
    finally:
        run(["losetup", "--detach", device])
        image.unlink()


class Set:
    """A set of copies of one directory, without an agent."""

    def __init__(self, binary, base, source, to):
        self.binary, self.config = binary, base / "mainstay.ron"
        self.config.write_text(f'(copies: [(name: "bench", from: ["{source}"], to: "{to}", same_disk: true)])\n')
        self.config.chmod(0o600)
        self.do("init")

    def do(self, verb):
        """(seconds, peak MiB)"""
        return run([self.binary, "copies", verb, "bench", "--config", self.config])
