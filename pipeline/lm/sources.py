"""Where a model's files are, in a folder or on the hub, and the hash of its weights."""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pipeline.lm.gguf import cached, is_gguf
from pipeline.support.errors import InputError
from pipeline.support.paths import resolve_source

# What transformers reads; Mistral's repositories hold a second copy of another name.
WEIGHTS = "model*.safetensors"
FILES = ["*.json", WEIGHTS, "*.jinja", "*.model", "*.txt"]


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
    except HFValidationError:
        said = "is neither a folder nor a hub id: correct its name"
    except GatedRepoError:
        said = "is gated: accept its terms on the hub and run `hf auth login`"
    except RevisionNotFoundError:
        said = f"has no revision {revision!r}: name a commit, tag or branch of it"
    except RepositoryNotFoundError:
        said = "is neither a folder nor on the hub: correct its name"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HTTPError, ConnectionError):
        said = (
            "is not in the local cache and the hub cannot be reached: connect, or give a local "
            "folder"
        )
    except LocalTokenNotFoundError:
        said = "needs a login: run `hf auth login`"
    except OSError as error:
        said = f"cannot be stored in the local cache ({error}): make room, or give a local folder"
    raise InputError(f"{what} {source!r} {said}")


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
