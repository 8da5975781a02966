"""Transactions without an end on a database of SQLite: two sums that together never change, and pages that come and go.

    writer.py DATABASE JOURNAL_MODE          says "ready" once it works
    writer.py check DATABASE                 exit code 0: the database is whole, and the sums are right
"""

import random
import sqlite3
import sys

TOTAL = 1_000_000


def write(path, mode):
    base = sqlite3.connect(path, isolation_level=None, timeout=30)
    base.execute(f"PRAGMA journal_mode={mode}")
    base.execute("PRAGMA synchronous=NORMAL")
    base.execute("PRAGMA wal_autocheckpoint=40")
    base.execute("CREATE TABLE a (v)")
    base.execute("CREATE TABLE b (v)")
    base.execute("CREATE TABLE pages (n INTEGER PRIMARY KEY, v)")
    base.execute("INSERT INTO a VALUES (?)", (TOTAL,))
    base.execute("INSERT INTO b VALUES (0)")
    base.executemany("INSERT INTO pages VALUES (?, ?)", ((n, random.randbytes(3000)) for n in range(1500)))
    count = 0
    while True:
        moved = random.randrange(1000)
        base.execute("BEGIN IMMEDIATE")
        base.execute("UPDATE a SET v = v - ?", (moved,))
        for _ in range(12):
            base.execute("UPDATE pages SET v = ? WHERE n = ?", (random.randbytes(3000), random.randrange(1500)))
        base.execute("UPDATE b SET v = v + ?", (moved,))
        base.execute("COMMIT")
        count += 1
        if count == 20:
            print("ready", flush=True)


def check(path):
    base = sqlite3.connect(path)
    (verdict,) = base.execute("PRAGMA integrity_check").fetchone()
    (a,), (b,) = base.execute("SELECT v FROM a").fetchone(), base.execute("SELECT v FROM b").fetchone()
    if verdict != "ok" or a + b != TOTAL:
        sys.exit(f"{verdict}, {a} + {b}")


if sys.argv[1] == "check":
    check(sys.argv[2])
else:
    write(sys.argv[1], sys.argv[2])
