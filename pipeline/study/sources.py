"""What a local model or data set holds: a hash of every file that a reader could read."""

import hashlib
from pathlib import Path

from pipeline.support.paths import resolve_source

READ = {".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf", ".csv", ".parquet"}
LARGE = 1 << 26  # bytes from which size and times stand for a hash, which takes long


def fingerprint(source: str | None) -> dict[str, str]:
    """Return name -> state of the files of a local source; nothing for a hub id or none."""
    path = resolve_source(source) if source else None
    if path is None:
        return {}
    if path.is_file():
        return {path.name: state(path)}
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*"))}
    return {
        name: state(file)
        for name, file in files.items()
        if file.suffix in READ and file.is_file() and "/." not in f"/{name}"
    }


def state(file: Path) -> str:
    about = file.stat()
    if about.st_size >= LARGE:  # a copy may keep the time of writing, but never that of the change
        return f"{about.st_size} bytes of {about.st_mtime_ns}, {about.st_ctime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
