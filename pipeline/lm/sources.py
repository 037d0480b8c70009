"""Where a model's files are, in a folder or on the hub, and the hash of its weights."""

import hashlib
from pathlib import Path

from huggingface_hub import errors as hub
from huggingface_hub import snapshot_download

from pipeline.lm.gguf import cached, is_gguf
from pipeline.support.errors import InputError
from pipeline.support.paths import resolve_source

# What transformers reads; Mistral's repositories hold a second copy of another name.
WEIGHTS = "model*.safetensors"
FILES = ["*.json", WEIGHTS, "*.jinja", "*.model", "*.txt"]
UNREACHABLE = (
    "is not in the local cache and the hub cannot be reached: connect, or give a local folder"
)
# Of several that hold, the first says most.
REFUSALS: dict[type[Exception], str] = {
    hub.HFValidationError: "is neither a folder nor a hub id: correct its name",
    hub.GatedRepoError: "is gated: accept its terms on the hub and run `hf auth login`",
    hub.RevisionNotFoundError: "has no revision {revision!r}: name a commit, tag or branch of it",
    hub.RepositoryNotFoundError: "is neither a folder nor on the hub: correct its name",
    hub.LocalEntryNotFoundError: UNREACHABLE,
    hub.HTTPError: UNREACHABLE,
    ConnectionError: UNREACHABLE,
    hub.LocalTokenNotFoundError: "needs a login: run `hf auth login`",
    OSError: "cannot be stored in the local cache ({error}): make room, or give a local folder",
}


def locate(
    source: str, revision: str | None, patterns: list[str] = FILES, what: str = "model"
) -> Path:
    """Return a local folder, or that of a hub id's snapshot, downloaded if need be."""
    local = resolve_source(source)
    if is_gguf(source):
        if local is None:
            raise InputError(f"{what} {source!r} does not exist: correct its path")
        return cached(local)
    if local and local.is_dir():
        return local
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except tuple(REFUSALS) as error:
        said = next(said for kind, said in REFUSALS.items() if isinstance(error, kind))
        said = said.format(revision=revision, error=error)
        raise InputError(f"{what} {source!r} {said}") from None


def weights_hash(folder: Path) -> str:
    """Return the sha256 over all files of weights, in name order."""
    files = sorted(folder.glob(WEIGHTS))
    if not files:
        raise InputError(f"{folder} holds no {WEIGHTS}: save the model in the hub's layout")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
