"""push: a finished checkpoint to the hub, after everything that can be checked here has been."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from omniq.card import front_matter, without_path
from omniq.checkpoint import INDEX_FILE, Reader
from omniq.errors import HubError, ModelError, OutputError, UsageError
from omniq.header import json_object
from omniq.reporting.folder import PAGE, RECORD, has_record, read_record
from omniq.reporting.metrics import METRICS
from omniq.source import TRANSPORT, checked_folder, config_values, offline
from omniq.sums import SUMS

BELONGS = (
    "*.safetensors", "*.gguf", INDEX_FILE, "config.json", "generation_config.json", "quantize_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "spiece.model", "*.tiktoken",
    "tekken.json", "chat_template*", "preprocessor_config.json", "processor_config.json", "*.py", "*.jinja",
    "README.md", RECORD, PAGE, METRICS, SUMS, "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", ".gitattributes",
)  # fmt: skip
"""What a checkpoint folder may hold; anything else is named and refused rather than published."""

SETTINGS = "config.json"
UNAUTHORISED, FORBIDDEN = 401, 403


class Hub(Protocol):
    """What this module needs of huggingface_hub.HfApi."""

    def whoami(self) -> Mapping[str, Any]:
        """Who the token belongs to."""

    def repo_exists(self, repo_id: str) -> bool:
        """Whether there is such a repository that the token may see."""

    def list_repo_files(self, repo_id: str, *, revision: str | None = None) -> list[str]:
        """The names of its files."""

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> Any:
        """Makes a repository."""

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool = False) -> Any:
        """Makes a branch."""

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, revision: str | None = None, commit_message: str | None = None
    ) -> Any:
        """Sends a folder; what is there already is not sent again."""


@dataclass(frozen=True)
class Upload:
    """What is sent, or would be. files: bytes by name. notes: what the user should know."""

    repo: str
    revision: str | None
    private: bool
    files: dict[str, int]
    notes: tuple[str, ...]
    url: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def prepared(out: Path, repo: str, revision: str | None, private: bool) -> Upload:
    """What a push of the folder would send; whatever can be wrong with it here is an error. The hub is not asked."""
    check_name(repo)
    folder = checked_folder(out)
    check_complete(folder)
    files = belonging(folder)
    check_card(folder)
    return Upload(repo, revision, private, files, tuple(notes(folder)))


def push(
    out: Path,
    repo: str,
    revision: str | None = None,
    private: bool = False,
    overwrite: bool = False,
    hub: Hub | None = None,
) -> Upload:
    """Sends a finished folder to the hub repository `repo`, which is made where there is none.

    overwrite: into a repository that holds files which are not of this checkpoint. Interrupted, the same call goes on.
    """
    upload = prepared(out, repo, revision, private)
    if offline():
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it, or look with --dry-run")
    hub = hub or HfApi()
    with told(repo, revision):
        hub.whoami()
        if hub.repo_exists(repo):
            check_target(hub, upload, overwrite)
        else:
            hub.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repo, branch=revision, exist_ok=True)
        with staged(out, upload) as folder:
            said = f"Upload {folder.name} with omniq"
            sent = hub.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=said)
    return replace(upload, url=str(sent))


def check_name(repo: str) -> None:
    """Raises UsageError unless `repo` is a name of the hub with its owner."""
    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise UsageError("the name of the repository must be user/name, of letters, digits, '-', '_' and '.'")


def check_complete(folder: Path) -> None:
    """Raises ModelError unless the folder is a whole quantised checkpoint."""
    config = config_values(folder)
    if not config.get("quantization_config"):
        raise ModelError(f"{folder} is not quantised; omniq push sends what omniq quantize or omniq export wrote")
    Reader(folder).names()  # reads the header of every shard, and refuses one that is missing, cut off or damaged
    if not isinstance(config.get("omniq"), Mapping):
        raise ModelError(f"{folder} was not written and verified by omniq; send it with the tool that made it")
    if has_record(folder):
        read_record(folder)
    if not any(folder.glob("tokenizer*")) and not any(folder.glob("vocab*")):
        raise ModelError(f"{folder} holds no tokenizer, so nobody could use it; copy it from the original model")


def belonging(folder: Path) -> dict[str, int]:
    """Bytes by name of every file, each of which belongs to a checkpoint."""
    entries = sorted(folder.iterdir())
    strange = [
        entry.name for entry in entries if not entry.is_file() or not any(fnmatch(entry.name, one) for one in BELONGS)
    ]
    if strange:
        listed = ", ".join(strange[:5]) + (" ..." if len(strange) > 5 else "")
        raise OutputError(f"{folder} holds what is not part of a checkpoint: {listed}; move it elsewhere, then push")
    return {entry.name: entry.stat().st_size for entry in entries}


def check_card(folder: Path) -> None:
    """Raises where the card is missing, or names a folder of this machine."""
    path = folder / "README.md"
    if not path.is_file():
        raise ModelError(f"{folder} has no model card; write README.md, which the hub shows to everybody")
    for name in ("README.md", RECORD, PAGE):
        file = folder / name
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        for place in {str(folder.resolve()), str(Path.home())} - {"/"}:
            if f"{place}/" in text or text.endswith(place):
                raise OutputError(f"{file} names the folder {place} of this machine; take it out, then push")


def notes(folder: Path) -> Iterator[str]:
    """What the user should know before the checkpoint is public."""
    front = front_matter((folder / "README.md").read_text(encoding="utf-8"))
    if not front.get("license"):
        yield "the card names no licence, because the original's card was not beside it; add license: to README.md"
    if not front.get("base_model"):
        yield "the card names no base model, because it was made from a local folder; add base_model: to README.md"
    if published(folder) != (folder / SETTINGS).read_bytes():
        yield "of the calibration text config.json names the file alone: its path on this machine is not sent"
    if not has_record(folder):
        yield f"there is no {RECORD}, so the checkpoint goes without its report"


def published(folder: Path) -> bytes:
    """config.json as it is sent: as it lies there, but for paths of this machine."""
    raw = (folder / SETTINGS).read_bytes()
    values = json_object(raw, folder / SETTINGS)
    recipe = values["omniq"].get("recipe")
    if not isinstance(recipe, Mapping) or without_path(recipe) == recipe:
        return raw
    block = {**values["omniq"], "recipe": without_path(recipe)}
    return (json.dumps({**values, "omniq": block}, indent=2) + "\n").encode()


def check_target(hub: Hub, upload: Upload, overwrite: bool) -> None:
    """Raises OutputError where the repository holds files that the checkpoint lacks, unless `overwrite`."""
    try:
        there = hub.list_repo_files(upload.repo, revision=upload.revision)
    except RevisionNotFoundError:
        return
    other = sorted(set(there) - set(upload.files) - {".gitattributes", "README.md"})
    if other and not overwrite:
        listed = ", ".join(other[:5]) + (" ..." if len(other) > 5 else "")
        raise OutputError(
            f"{upload.repo} holds other files already: {listed}; choose another name or --revision, or give "
            "--overwrite to add to them and replace those of the same name"
        )


@contextmanager
def staged(out: Path, upload: Upload) -> Iterator[Path]:
    """A folder with links to exactly the files to send, and config.json as it is sent."""
    with tempfile.TemporaryDirectory(prefix="omniq-push-") as place:
        folder = Path(place) / out.resolve().name
        folder.mkdir()
        for name in upload.files:
            (folder / name).symlink_to((out / name).resolve())
        if published(out) != (out / SETTINGS).read_bytes():
            (folder / SETTINGS).unlink()
            (folder / SETTINGS).write_bytes(published(out))
            shutil.copystat(out / SETTINGS, folder / SETTINGS)
        yield folder


@contextmanager
def told(repo: str, revision: str | None) -> Iterator[None]:
    """Turns what the hub answers into a sentence."""
    again = "run the same command again to go on: what has arrived is not sent again"
    try:
        yield
    except (RepositoryNotFoundError, GatedRepoError):
        raise HubError(f"there is no repository {repo} that this token may write; check name and token") from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}; make it on the hub, or leave --revision out") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == UNAUTHORISED:
            raise HubError("the hub does not accept the token; log in with: hf auth login") from None
        if status == FORBIDDEN:
            raise HubError(
                f"the token may not write {repo}; use one with write access, or a name of your own"
            ) from None
        raise HubError(f"the hub refused the upload to {repo} ({status or first(error)}); {again}") from None
    except LocalTokenNotFoundError:
        raise HubError("there is no token for the hub; make one with write access, then: hf auth login") from None
    except (OSError, TRANSPORT) as error:
        raise HubError(f"the hub cannot be reached ({type(error).__name__}); {again}") from None


def first(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().partition("\n")[0]
