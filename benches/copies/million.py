"""Memory with a million files, and with a million names of half as many inodes."""

import os
import shutil

from disks import Set, say

PEAK_MIB_MAX = 32
FILES_A_DIRECTORY = 100
DIRECTORIES_A_DIRECTORY = 100
CHANGED_EVERY = 100


def path(root, index):
    directory = index // FILES_A_DIRECTORY
    return f"{root}/d{directory // DIRECTORIES_A_DIRECTORY:03}/e{directory % DIRECTORIES_A_DIRECTORY:02}/f{index}"


def put(name, text):
    with open(name, "w", encoding="ascii") as file:
        file.write(text)


def make(root, count, linked):
    """Every tenth file is empty. `linked`: every second name is another one of the inode before."""
    for index in range(count):
        name = path(root, index)
        if index % FILES_A_DIRECTORY == 0:
            os.makedirs(os.path.dirname(name))
        if linked and index % 2 == 1:
            os.link(path(root, index - 1), name)
        else:
            put(name, str(index) if index % 10 else "")


def make_apart(root, count):
    """As after `cp -al`: the second name of each inode is far away from the first."""
    make(f"{root}/a", count // 2, linked=False)
    for index in range(count // 2):
        name = path(f"{root}/b", index)
        if index % FILES_A_DIRECTORY == 0:
            os.makedirs(os.path.dirname(name))
        os.link(path(f"{root}/a", index), name)


def change(root, count):
    for index in range(0, count, CHANGED_EVERY):
        put(path(root, index), f"changed {index}")


TREES = [
    ("files", lambda root, count: make(root, count, linked=False), change),
    ("names, two an inode", lambda root, count: make(root, count, linked=True), change),
    ("names, two an inode, far apart", make_apart, lambda root, count: change(f"{root}/a", count // 2)),
]


def measure(binary, work, count):
    """[(passed, what)]"""
    verdicts = []
    for number, (what, build, modify) in enumerate(TREES):
        base = work / f"million{number}"
        (base / "to").mkdir(parents=True)
        source = base / "source"
        say(f"making {count} {what}")
        build(str(source), count)
        copies = Set(binary, base, source, base / "to")
        steps = [("first copy", "run"), ("no change", "run"), ("1 % changed", "run"), ("verify", "verify"), ("scrub", "scrub")]
        for step, verb in steps:
            if step == "1 % changed":
                modify(str(source), count)
            seconds, peak = copies.do(verb)
            text = f"{count} {what}: {step}: {seconds:.1f} s, peak {peak:.1f} MiB, at most {PEAK_MIB_MAX}"
            say(text)
            verdicts.append((peak <= PEAK_MIB_MAX, text))
        # The next tree needs the room.
        shutil.rmtree(base)
    return verdicts
