"""1 % of the pages of one large file are written anew, here and there: how much of it is written to a target that shares extents."""

import os
import random

from disks import Set, say, xfs

FILE_MIB = 512
PAGE_BYTES = 4096
CHANGED_PART = 0.01
WRITTEN_MB_MAX = 10


def measure(binary, work):
    """[(passed, what)]"""
    base = work / "pages"
    source = base / "source"
    source.mkdir(parents=True)
    large = source / "large"
    with open(large, "wb") as file:
        for _ in range(FILE_MIB):
            file.write(os.urandom(1 << 20))
    with xfs(base / "target.img", 3 * FILE_MIB) as target:
        (target.path / "to").mkdir()
        copies = Set(binary, base, source, target.path / "to")
        copies.do("run")
        pages = (FILE_MIB << 20) // PAGE_BYTES
        dice = random.Random(1)
        with open(large, "r+b") as file:
            for page in dice.sample(range(pages), int(pages * CHANGED_PART)):
                file.seek(page * PAGE_BYTES)
                file.write(dice.randbytes(PAGE_BYTES))
        before = target.written_bytes()
        seconds, peak = copies.do("run")
        written = (target.written_bytes() - before) / 1e6
        copies.do("verify")
    text = f"1 % of the pages of {FILE_MIB} MiB, XFS: {written:.1f} MB written in {seconds:.1f} s, at most {WRITTEN_MB_MAX}; peak {peak:.1f} MiB"
    say(text)
    return [(written <= WRITTEN_MB_MAX, text)]
