"""Where a model comes from: a local folder, a GGUF file or a hub id, each checked before anything is loaded."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from omniq.errors import HubError, ModelError, UsageError
from omniq.header import json_object

# Never .bin or .pt: those are pickles, which run code when loaded.
HUB_FILES = (
    "*.json",
    "*.safetensors",
    "*.model",
    "*.txt",
    "*.jinja",
    "*.tiktoken",
    "*.md",
    "LICENSE",
    "LICENCE",
    "NOTICE",
)
HUB_CODE = ("*.py",)
TRANSPORT = HfHubHTTPError.__bases__[0]
"""Whatever fails in the HTTP library that this release of huggingface_hub uses."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
GGUF_MAGIC = b"GGUF"
PICKLES = ("*.bin", "*.pt", "*.pth")
TO_SAFETENSORS = "convert them to safetensors: load the model where you trust it and call save_pretrained"


def offline() -> bool:
    """True when the user has switched the hub off (HF_HUB_OFFLINE)."""
    return bool(constants.HF_HUB_OFFLINE)


def cache_folder() -> Path:
    """Where omniq keeps what it can make again: below the hub library's own home (HF_HOME)."""
    return Path(constants.HF_HOME) / "omniq"


def located(model: str, revision: str | None, code: bool) -> Path:
    """The local folder or GGUF file that `model` names, after a download for a hub id. code: fetch Python files too."""
    path = Path(model).expanduser()
    if revision is not None and path.exists():
        raise UsageError(f"a revision ({revision!r}) picks a version of a hub model, but {model} is on this machine")
    if path.is_file():
        return _checked_gguf(path)
    if path.is_dir():
        return checked_folder(path)
    if not HUB_ID.fullmatch(model) or model.startswith(".") or path.suffix in (".gguf", ".safetensors", ".json"):
        raise ModelError(f"{model} does not exist; give a model folder, a GGUF file or a hub id such as org/name")
    return checked_folder(_downloaded(model, revision, code))


def _downloaded(model: str, revision: str | None, code: bool) -> Path:
    """Folder of a hub model, from the local cache when the hub cannot be reached."""
    patterns = HUB_FILES + (HUB_CODE if code else ())
    local = "give a local folder or GGUF file instead"
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except GatedRepoError:
        raise ModelError(
            f"the hub model {model!r} is gated; accept its terms on its page and log in, or {local}"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"the hub model {model!r} has no revision {revision!r}; leave it out or name one that exists"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(f"there is no folder and no hub model {model!r}; check the spelling, or {local}") from None
    except OSError as error:
        why = "HF_HUB_OFFLINE is set" if offline() else f"the hub cannot be reached ({type(error).__name__})"
        raise ModelError(f"{model!r} is neither a local folder nor in the hub's cache, and {why}; {local}") from None
    # Where a connection fails, the hub library closes the client that its other threads use: then it has no attributes.
    except (TRANSPORT, RuntimeError, AttributeError) as error:
        raise HubError(
            f"the connection to the hub broke off while {model!r} was fetched ({type(error).__name__}); run the same "
            f"command again to go on, or {local}"
        ) from None


def _checked_gguf(path: Path) -> Path:
    """The path of a file that starts as GGUF does."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    if magic != GGUF_MAGIC:
        raise ModelError(
            f"{path} is not a GGUF file; give a GGUF file, or the folder that holds config.json and safetensors files"
        )
    return path


def checked_folder(path: Path) -> Path:
    """The path of a folder that holds a config and safetensors weights."""
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder that exists; give the folder of a model")
    if not (path / "config.json").is_file():
        packed = sorted(file.name for file in path.glob("*.gguf"))
        hint = f"; to use {packed[0]}, give the path of that file" if packed else ""
        raise ModelError(f"{path} holds no config.json, so it is not a model folder{hint}")
    if any(path.glob("*.safetensors")):
        return path
    if any(file for pattern in PICKLES for file in path.glob(pattern)):
        raise ModelError(f"{path} holds its weights as pickles only, which can run code when loaded; {TO_SAFETENSORS}")
    raise ModelError(f"{path} holds no safetensors file; the copy is incomplete, so copy or download the model again")


def config_values(folder: Path) -> dict[str, Any]:
    """The entries of the folder's config.json."""
    path = folder / "config.json"
    if path.exists() and not path.is_file():
        raise ModelError(f"{path} is not a file; give the folder of a model")
    try:
        return json_object(path.read_bytes(), path)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None


def file_digest(path: Path) -> str:
    """sha256 of a file's content, as hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
