"""What a long computation has so far, kept so that a second start goes on from there.

A scratch is never a result. Only a run with the same key reads it, and the key stands for all that
determines the result. So a stopped and restarted run ends with the same bits as any other.
"""

import io
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.support.files import new_file

FOLDER = Path(".dvc/tmp/scratch")  # in the user's checkout
KEPT_DAYS = 30  # long enough for a queue of experiments, short enough not to fill a disk


@dataclass
class ScratchFile:
    """One file, replaced whole: tensors, numbers, texts, and lists and dictionaries of them."""

    path: Path
    seconds: float
    """How long `due` waits between two writes."""
    written: float = field(default_factory=time.monotonic)

    def read(self) -> Any:
        """Return what was written last, on the CPU, or None."""
        import torch

        if not self.path.exists():
            return None
        return torch.load(self.path, map_location="cpu", weights_only=True)

    def write(self, content: Any) -> None:
        import torch

        buffer = io.BytesIO()  # torch.save itself hides a full disk behind an error of its own
        torch.save(content, buffer)
        with new_file(self.path) as new:
            new.write_bytes(buffer.getvalue())
        self.written = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.written >= self.seconds


@dataclass
class Scratch:
    """The folder of one run."""

    folder: Path
    """Its name holds the run's key."""
    seconds: float = 60.0
    """At most so much work is lost when a run is killed."""
    opened: dict[str, int] = field(default_factory=dict)

    def file(self, title: str) -> ScratchFile:
        """Return the next file of this title; a run that repeats the calls finds the same files."""
        self.opened[title] = self.opened.get(title, 0) + 1
        return ScratchFile(self.folder / f"{title}-{self.opened[title]}.pt", self.seconds)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def forget(folder: Path) -> None:
    """Remove every scratch, of whatever key, that no run has written for KEPT_DAYS."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another stage clears its own
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
