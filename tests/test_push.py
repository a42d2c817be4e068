"""omniq push: what is checked before anything is sent, what is sent, and what the hub's answers become."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RevisionNotFoundError
from run_records import record

from omniq import push as module
from omniq.card import model_card
from omniq.errors import HubError, ModelError, OmniqError, OutputError, UsageError
from omniq.push import TRANSPORT, prepared, push
from omniq.reporting.folder import write_report
from omniq.shards import write_tensors

SOURCE = "/data/private/wiki.txt"


class Hub:
    """A hub that keeps what it is sent. failure: raised by the call named `where`."""

    def __init__(self, files: list[str] | None = None, where: str = "", failure: Exception | None = None) -> None:
        self.files, self.where, self.failure = files, where, failure
        self.sent: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.private: bool | None = None
        self.branch: str | None = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.where:
            raise self.failure

    def whoami(self) -> dict:
        self._call("whoami")
        return {"name": "me"}

    def repo_exists(self, repo_id: str) -> bool:
        self._call("repo_exists")
        return self.files is not None

    def list_repo_files(self, repo_id: str, *, revision: str | None = None) -> list[str]:
        self._call("list_repo_files")
        return self.files

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> None:
        self._call("create_repo")
        self.private = private

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool = False) -> None:
        self._call("create_branch")
        self.branch = branch

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, revision: str | None = None, commit_message: str | None = None
    ) -> str:
        self._call("upload_folder")
        self.sent = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return f"https://hub.example/{repo_id}/{revision}"


def answered(status: int, kind: type = HfHubHTTPError) -> Exception:
    """What the hub library raises for an answer of this status."""
    response = SimpleNamespace(status_code=status, headers={}, request=None, text="", json=dict)
    return kind("no", response=response)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as omniq quantize leaves it."""
    monkeypatch.setattr(module, "offline", lambda: False)
    folder = tmp_path / "model-w4"
    folder.mkdir()
    write_tensors(folder / "model.safetensors", {"x": torch.zeros(4)})
    config = {
        "model_type": "llama",
        "quantization_config": {"quant_method": "compressed-tensors"},
        "omniq": {"recipe": {"scheme": "W4A16", "data": {"source": SOURCE}}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text(model_card(record()))
    (folder / "LICENSE").write_text("Apache")
    write_report(record(), folder)
    return folder


def test_everything_is_sent_and_the_path_of_the_text_is_not(out: Path) -> None:
    hub = Hub()
    upload = push(out, "me/model-w4", private=True, hub=hub)
    assert set(hub.sent) == {path.name for path in out.iterdir()} == set(upload.files)
    for name in set(hub.sent) - {"config.json"}:
        assert hub.sent[name] == (out / name).read_bytes()
    assert json.loads(hub.sent["config.json"])["omniq"]["recipe"]["data"]["source"] == "wiki.txt"
    assert SOURCE in (out / "config.json").read_text(), "what lies on disk stays as it is"
    assert (hub.private, hub.branch, upload.url) == (True, None, "https://hub.example/me/model-w4/None")


def test_nothing_is_asked_of_the_hub_before_the_folder_is_checked(out: Path) -> None:
    upload = prepared(out, "me/m", None, False)
    assert upload.files["model.safetensors"] == (out / "model.safetensors").stat().st_size
    assert any("calibration text" in note for note in upload.notes)
    assert not any("licence" in note or "base model" in note for note in upload.notes)
    hub = Hub()
    (out / "notes.txt").write_text("x")
    with pytest.raises(OutputError, match=r"notes\.txt"):
        push(out, "me/m", hub=hub)
    assert hub.calls == []


def test_a_card_without_licence_or_base_model_is_told_of(out: Path) -> None:
    (out / "README.md").write_text(model_card(record(card={}, from_hub=False)))
    said = " ".join(prepared(out, "me/m", None, False).notes)
    assert "license:" in said
    assert "base_model:" in said


def no_quantization(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama", "omniq": {}}')


def other_tool(folder: Path) -> None:
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')


def cut_off(folder: Path) -> None:
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-4])


def work_folder(folder: Path) -> None:
    (folder / ".model.omniq").mkdir()


def path_in_card(folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(f"{card.read_text()}\nmade in {folder.resolve()}/x\n")


def path_in_report(folder: Path) -> None:
    write_report(record(notices=(f"read {folder.resolve()}/x",)), folder)


BROKEN: dict[str, tuple[Callable[[Path], object], type[OmniqError], str]] = {
    "not quantised": (no_quantization, ModelError, "not quantised"),
    "another tool's": (other_tool, ModelError, "not written and verified by omniq"),
    "cut off": (cut_off, ModelError, r"model\.safetensors"),
    "a work folder": (work_folder, OutputError, r"\.model\.omniq"),
    "a path in the card": (path_in_card, OutputError, r"README\.md names the folder"),
    "a path in the report": (path_in_report, OutputError, r"names the folder"),
    "no card": (lambda folder: (folder / "README.md").unlink(), ModelError, "no model card"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ModelError, "no tokenizer"),
    "a damaged report": (lambda folder: (folder / "report.json").write_text("{"), ModelError, r"report\.json"),
}


@pytest.mark.parametrize("key", list(BROKEN))
def test_a_folder_that_is_not_whole_or_not_public_is_refused(key: str, out: Path) -> None:
    spoil, kind, sentence = BROKEN[key]
    spoil(out)
    with pytest.raises(kind, match=sentence):
        prepared(out, "me/m", None, False)


@pytest.mark.parametrize("name", ["model", "me/", "/m", "a/b/c", "me/model name", "", "me/-x", "../x"])
def test_a_name_that_is_none_is_refused(name: str, out: Path) -> None:
    with pytest.raises(UsageError, match="user/name"):
        prepared(out, name, None, False)


def test_a_repository_with_other_files_is_left_alone_unless_told(out: Path) -> None:
    hub = Hub(["README.md", ".gitattributes", "thesis.pdf"])
    with pytest.raises(OutputError, match=r"thesis\.pdf.*--overwrite"):
        push(out, "me/m", hub=hub)
    assert "upload_folder" not in hub.calls
    push(out, "me/m", overwrite=True, hub=hub)
    assert hub.sent


def test_the_same_push_again_goes_on(out: Path) -> None:
    hub = Hub(["README.md", "config.json", "model.safetensors"])
    push(out, "me/m", hub=hub)
    assert "create_repo" not in hub.calls
    assert hub.sent


def test_a_new_revision_is_made(out: Path) -> None:
    missing = answered(404, RevisionNotFoundError)
    hub = Hub(["thesis.pdf"], "list_repo_files", missing)
    assert push(out, "me/m", "v2", hub=hub).url.endswith("/v2")
    assert hub.branch == "v2"


ANSWERS = {
    "no token": ("whoami", LocalTokenNotFoundError("x"), "no token.*hf auth login"),
    "bad token": ("whoami", answered(401), "does not accept the token"),
    "no rights": ("create_repo", answered(403), "may not write me/m"),
    "server trouble": ("upload_folder", answered(503), r"503.*same command again"),
    "no network": ("whoami", TRANSPORT("x"), "cannot be reached.*same command again"),
    "no route": ("upload_folder", ConnectionError("x"), "cannot be reached"),
}


@pytest.mark.parametrize("key", list(ANSWERS))
def test_what_the_hub_answers_becomes_a_sentence(key: str, out: Path) -> None:
    where, failure, sentence = ANSWERS[key]
    with pytest.raises(HubError, match=sentence):
        push(out, "me/m", hub=Hub(None, where, failure))


def test_a_hub_that_is_switched_off_is_not_asked(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "offline", lambda: True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(out, "me/m", hub=Hub())


def test_the_command_line_lists_what_it_would_send(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from omniq.cli import app

    with pytest.raises(SystemExit) as leaving:
        app.main(["push", str(out), "me/m", "--dry-run", "--json"])
    assert not leaving.value.code
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["files"]) == {path.name for path in out.iterdir()}
    assert shown["url"] is None
