"""What a local model or data set holds: a hash of every file that a reader could read."""

import hashlib
from pathlib import Path

from pipeline.support.paths import resolve_source

READ = {".safetensors", ".json", ".jinja", ".model", ".txt", ".gguf", ".csv", ".parquet"}
LARGE = 1 << 26  # bytes from which size and time of writing stand for a hash, which takes long


def fingerprint(source: str | None) -> dict[str, str]:
    """Return name -> state of the files of a local source; nothing for a hub id or none."""
    path = resolve_source(source) if source else None
    if path is None:
        return {}
    if path.is_file():
        return {path.name: state(path)}
    files = (file for file in sorted(path.iterdir()) if file.is_file())
    return {file.name: state(file) for file in files if is_read(file)}


def is_read(file: Path) -> bool:
    return file.suffix in READ and not file.name.startswith(".")


def state(file: Path) -> str:
    about = file.stat()
    if about.st_size >= LARGE:
        return f"{about.st_size} bytes of {about.st_mtime_ns}"
    return hashlib.sha256(file.read_bytes()).hexdigest()
