"""Kill the service at random while clients search and one ingests; then look whether anything promised is missing.

Checked at the end: every acknowledged item is stored once, nothing is stored that nobody sent, every answered search
is in the audit log, the log's hash chain and SQLite's own integrity hold.
"""

import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from sqlalchemy import text

from measure import print_header
from vireid.client import Client, ServiceError
from vireid.gallery import Gallery, NewItem

WHY = {"purpose": "fault test", "case": "faults"}
BOUNDS = ("requests_per_key=64", "rate=100000", "burst=100000")
DIM, BATCH, PATIENCE, PAUSE = 128, 20, 120, 0.5


@dataclass
class Ledger:
    """What the service has promised, and what it has cost to ask."""

    acknowledged: list[str] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    searches: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    cut: int = 0

    def miss(self, error):
        """Note a request that was cut off or refused, which is a fault unless the service was busy; wait a little."""
        self.cut += 1
        if isinstance(error, ServiceError) and error.status not in (429, 503):
            self.failed.add(f"{error.status}: {error}")
        time.sleep(PAUSE)


class Service:
    """The service as a process that can be killed and started again on the same port."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        bounds = [word for bound in BOUNDS for word in ("--set", bound)]
        command = [sys.executable, "-m", "vireid", "serve", "--gallery", str(folder)]
        self.command = [*command, "--port", str(self.port), *bounds]
        self.log = (folder.parent / "service.log").open("ab")
        self.start()

    def start(self):
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5)
                return
            except httpx.TransportError:
                time.sleep(0.1)
        raise SystemExit(f"the service does not start: {Path(self.log.name).read_text()}")

    def kill(self):
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ask it to end, as a supervisor does."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


def vectors(count, seed):
    """Return (count, DIM) random unit vectors."""
    rows = np.random.default_rng(seed).standard_normal((count, DIM), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def searcher(url, key, ledger, stop, seed):
    """Search until told to stop; requests that a kill cuts off are counted."""
    with Client(url, key, timeout=30) as client:
        for query in vectors(100_000, seed):
            if stop.is_set():
                return
            started = time.perf_counter()
            try:
                ledger.searches.append(client.search_vector(query, k=5, **WHY).id)
                ledger.seconds.append(time.perf_counter() - started)
            except (httpx.TransportError, ServiceError) as error:
                ledger.miss(error)


def ingester(url, key, ledger, stop):
    """Add batches; one that was cut off is sent again, as it was, until it is acknowledged."""
    batch = 0
    with Client(url, key, timeout=30) as client:
        while not stop.is_set():
            ids = [f"new/{batch}/{i}" for i in range(BATCH)]
            items = [NewItem(id=name, camera="gate", modality="visible", track=f"t{batch}") for name in ids]
            ledger.sent.update(ids)
            try:
                ledger.acknowledged += client.add(items, vectors(BATCH, (1, batch)))
                batch += 1
            except (httpx.TransportError, ServiceError) as error:
                ledger.miss(error)


def run(folder, *, kills, clients, items, pause, seed):
    """Run the whole thing in a folder; return the ledger and the sentences that say what is wrong."""
    gallery = Gallery.create(folder / "gallery", dim=DIM)
    stored = [NewItem(id=f"old/{i}", camera="gate", modality="visible") for i in range(items)]
    gallery.add(stored, vectors(items, seed))
    _, key = gallery.keys.create("faults", "operator")
    gallery.close()
    ledger, stop, moments = Ledger(sent={item.id for item in stored}), threading.Event(), random.Random(seed)
    service = Service(folder / "gallery")
    threads = [threading.Thread(target=ingester, args=(service.url, key, ledger, stop))]
    for number in range(clients):
        threads.append(threading.Thread(target=searcher, args=(service.url, key, ledger, stop, (2, number))))
    for thread in threads:
        thread.start()
    for _ in range(kills):
        time.sleep(moments.uniform(*pause))
        service.kill()
        service.start()
    time.sleep(pause[1])
    stop.set()
    for thread in threads:
        thread.join()
    service.stop()
    return ledger, faults(folder / "gallery", ledger, [item.id for item in stored])


def faults(location, ledger, old):
    """Return what is wrong, a sentence each; none when all promises were kept."""
    with Gallery.open(location) as gallery:
        found = [item.id for batch, _ in gallery.scan() for item in batch]
        logged = set(searches_in_log(gallery))
        broken = gallery.audit.verify().broken
        searchable = gallery.refresh()
        with gallery.database.read() as session:
            integrity = session.execute(text("PRAGMA integrity_check")).scalar_one()
    missing = {*ledger.acknowledged, *old} - set(found)
    promises = {
        f"{len(missing)} acknowledged items are missing": not missing,
        f"{len(found) - len(set(found))} items are stored twice": len(found) == len(set(found)),
        f"{len(set(found) - ledger.sent)} items are stored that nobody sent": set(found) <= ledger.sent,
        f"{searchable} of {len(found)} items can be searched": searchable == len(found),
        f"{len(set(ledger.searches) - logged)} answered searches are not logged": set(ledger.searches) <= logged,
        f"the audit log breaks at entry {broken}": broken is None,
        f"SQLite says: {integrity}": integrity == "ok",
        f"the service answered {sorted(ledger.failed)}": not ledger.failed,
    }
    return [sentence for sentence, kept in promises.items() if not kept]


def searches_in_log(gallery):
    """Yield the ids of all searches in the audit log."""
    after = 0
    while page := gallery.audit.entries(after=after):
        yield from (row.entry["details"]["search"] for row in page if row.entry["action"] == "search")
        after = page[-1].seq


def main(
    kills: int = 10,
    clients: int = 20,
    items: Annotated[int, typer.Option(help="stored before the start")] = 5000,
    seed: int = 0,
):
    """Print what was survived; exit code 1 when a promise was broken."""
    print_header()
    with tempfile.TemporaryDirectory() as name:
        ledger, wrong = run(Path(name), pause=(1.0, 5.0), kills=kills, clients=clients, items=items, seed=seed)
    median, late = np.percentile(ledger.seconds, [50, 95])
    print(f"{kills} kills, {clients} clients searching, 1 ingesting")
    print(f"{len(ledger.searches)} searches answered, {ledger.cut} cut off; p50 {median:.3f} s, p95 {late:.3f} s")
    print(f"{len(ledger.acknowledged)} items acknowledged, in batches of {BATCH}")
    print(
        "\n".join(wrong) or "all acknowledged items are there, none twice; all answered searches are in an unbroken log"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
