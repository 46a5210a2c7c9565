"""Several processes that write one store: each its own chains' shards, process 0 the manifest.

They share a file system. At each commit every process but process 0 leaves the records of the shards that it has
written; process 0 collects them, and what its manifest then names is the store.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from smilax.store.errors import StoreUnwritable
from smilax.store.files import TEMPORARY, write_file
from smilax.store.manifest import Shard

POLL_SECONDS = 0.02
# Longer than a full queue of commits takes on a slow disk.
PATIENCE_SECONDS = 1800.0


@dataclass(frozen=True)
class Share:
    """What one of several processes writes.

    Attributes:
        process: its number; process 0 writes the manifest, the states and the reports.
        count: of processes.
        chains: first of its chains, and last + 1; may be empty.
    """

    process: int
    count: int
    chains: tuple[int, int]


def _name(commit: int, process: int) -> str:
    # A temporary file: whoever opens the store next deletes it.
    return f"{TEMPORARY}records-{commit:06d}-{process:06d}.json"


def hand_over(path: Path, share: Share, commit: int, shards: list[Shard]) -> None:
    """Tells process 0 what this one has written, durably, for a commit."""
    content = json.dumps([asdict(shard) for shard in shards]).encode()
    write_file(path, _name(commit, share.process), [memoryview(content)])


def collect(path: Path, share: Share, commit: int) -> Iterator[Shard]:
    """What the others have written; waits for them. StoreUnwritable if one of them never says so."""
    for process in range(1, share.count):
        file = path / _name(commit, process)
        end = time.monotonic() + PATIENCE_SECONDS
        while not file.exists():
            if time.monotonic() > end:
                raise StoreUnwritable(f"process {process} has written nothing to {path} for {PATIENCE_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        for record in json.loads(file.read_bytes()):
            yield Shard(**record | {"chains": tuple(record["chains"])})
        with suppress(OSError):
            file.unlink()
