"""What is acknowledged survives kill -9 and a log torn anywhere behind it; observations that decided are there with their records."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from daemon.journal.store import Entry, Journal

# At each odd seq an observation, at each even one an event with two records; says each even seq once it is on disk.
WRITER = """
import os, sys
from pathlib import Path
from daemon.journal.store import Entry, Journal

journal = Journal.open(Path(sys.argv[1]))
seq = journal.last_seq() + 1
seq += 1 - seq % 2
while True:
    journal.observe(Entry(seq=seq, at=seq, role="event", type="Observed", body="o" * 300))
    records = [Entry(seq=seq + 1, at=seq + 1, role="record", type="StepStarted", body="r" * 200)] * 2
    if seq % 50 == 1:
        journal.write_checkpoint(seq, seq, {"cold": os.urandom(20_000)})
    journal.append(Entry(seq=seq + 1, at=seq + 1, role="event", type="Gap", body="{}"), records).result()
    os.write(1, b"%d\\n" % (seq + 1))
    seq += 2
"""


def test_kill_minus_nine_loses_no_acknowledged_commit(tmp_path: Path) -> None:
    chance = random.Random(7)
    state = tmp_path / "state.db"
    acknowledged: set[int] = set()
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(state)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        # A number of commits instead of a time: the kill then falls somewhere inside a later one, on any machine.
        for _ in range(chance.randrange(1, 120)):
            said = process.stdout.readline()
            acknowledged.add(int(said))
        os.kill(process.pid, signal.SIGKILL)
        acknowledged |= {int(line) for line in process.stdout.read().splitlines()}
        process.stdout.close()
        process.wait()

        with Journal.open(state) as journal:
            entries = list(journal.entries())
            assert journal.last_seq() >= max(acknowledged)
            assert journal.verify_chain().intact
            checkpoint = journal.latest_checkpoint()
            assert checkpoint is not None
        found: dict[int, int] = {}
        for entry in entries:
            found[entry.seq] = found.get(entry.seq, 0) + 1
        events = [seq for seq in found if seq % 2 == 0]
        # A kill between an observation and its event leaves the observation alone: that event nobody was told of.
        assert acknowledged <= set(events)
        assert all(found[seq] == 3 for seq in events), "an event without its records, or records without their event"
        assert all(found[seq - 1] == 1 for seq in events), "an entry whose observation is not on disk"


def test_a_log_torn_anywhere_keeps_every_commit_before_the_tear(tmp_path: Path) -> None:
    """The image of a power cut: the log's bytes up to some point, the rest never written or garbage."""
    chance = random.Random(11)
    live = tmp_path / "live"
    journal = Journal.open(live / "state.db")
    log = live / "state.db-wal"
    sizes = []
    for seq in range(1, 41):
        journal.append(Entry(seq=seq, at=seq, role="event", type="Gap", body="b" * chance.randrange(10, 6000)), []).result()
        sizes.append(log.stat().st_size)
    image = {path.name: path.read_bytes() for path in live.iterdir() if not path.name.endswith(("-shm", ".lock"))}
    journal.close()

    for number in range(40):
        folder = tmp_path / f"image{number}"
        folder.mkdir()
        tear = chance.randrange(sizes[0], len(image["state.db-wal"]) + 1)
        torn = image["state.db-wal"][:tear] + (chance.randbytes(3000) if number % 2 else b"")
        for name, content in image.items():
            (folder / name).write_bytes(torn if name == "state.db-wal" else content)
        with Journal.open(folder / "state.db") as opened:
            survived = [entry.seq for entry in opened.entries()]
            assert survived == list(range(1, len(survived) + 1))
            assert len(survived) >= sum(1 for size in sizes if size <= tear)
            assert opened.verify_chain().intact
            opened.append(Entry(seq=opened.last_seq() + 1, at=1, role="event", type="Gap", body="{}"), []).result()
        shutil.rmtree(folder)


def test_feed_rows_lost_in_a_power_cut_take_no_record_with_them(tmp_path: Path) -> None:
    """The feed's unsynced tail is gone: what it decided nothing about is missing, every record still has its observation."""
    live, image = tmp_path / "live", tmp_path / "image"
    journal = Journal.open(live / "state.db")
    journal.observe(Entry(seq=1, at=1, role="event", type="Observed", body="{}"))
    journal.append(None, [Entry(seq=1, at=1, role="record", type="TriggerChanged", body="{}")]).result()
    synced = (live / "feed.db-wal").stat().st_size
    journal.observe(Entry(seq=2, at=2, role="event", type="Observed", body="{}"))
    journal.flush().result()
    shutil.copytree(live, image, ignore=shutil.ignore_patterns("*-shm", "*.lock"))
    journal.close()
    log = image / "feed.db-wal"
    assert log.stat().st_size > synced
    log.write_bytes(log.read_bytes()[:synced])

    with Journal.open(image / "state.db") as opened:
        assert [(e.seq, e.role) for e in opened.entries()] == [(1, "event"), (1, "record")]
        assert opened.last_seq() == 1


def test_a_disk_that_is_full_from_the_start_is_said_in_one_line(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from daemon.journal.store import Journal, JournalError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "try: Journal.open(Path(sys.argv[1]))\n"
        "except JournalError as error: print(error); sys.exit(3)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script, str(tmp_path / "state.db")], capture_output=True, text=True, check=False)

    assert finished.returncode == 3
    assert "state.db" in finished.stdout
    assert len(finished.stdout.splitlines()) == 1
    assert finished.stderr == ""
