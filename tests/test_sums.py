"""SHA256SUMS: written with every checkpoint, read by sha256sum itself, and any change of a weight seen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tiny import save_tiny

from omniq import pipeline
from omniq.errors import ModelError, UsageError, VerificationError
from omniq.exporting import run as exporting
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.sums import SUMS, check_sums, write_sums


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint that quantize wrote, and one of several files that export made of it."""
    root = tmp_path_factory.mktemp("sums")
    pipeline.quantize(
        str(save_tiny("llama", root / "model")), root / "out", Recipe(LinearSpec.parse("W4A16g16"), "rtn")
    )
    exporting.export(root / "out", root / "exported", "dense", max_shard_bytes=1 << 14)
    return {"quantize": root / "out", "export": root / "exported"}


@pytest.mark.parametrize("by", ["quantize", "export"])
def test_every_weight_file_has_its_sum(by: str, made: dict[str, Path]) -> None:
    files = sorted(path.name for path in made[by].glob("*.safetensors"))
    assert len(files) > (by == "export")
    assert set(files) <= set(check_sums(made[by]))
    checked = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=made[by], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(": OK") == len(check_sums(made[by]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their sums."""
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * 3_000_000)
    write_sums(tmp_path, files)
    return tmp_path


@pytest.mark.parametrize("place", [0, 1_500_000, 2_999_999])
def test_a_changed_bit_is_seen_wherever_it_is(place: int, folder: Path) -> None:
    assert check_sums(folder) == ("one.safetensors", "two.safetensors")
    raw = bytearray((folder / "two.safetensors").read_bytes())
    raw[place] ^= 4
    (folder / "two.safetensors").write_bytes(raw)
    with pytest.raises(VerificationError, match=r"two\.safetensors \(changed\); copy or download") as caught:
        check_sums(folder)
    assert "one.safetensors" not in str(caught.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "one.safetensors").unlink()
    with pytest.raises(VerificationError, match=r"one\.safetensors \(missing\)"):
        check_sums(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is no text"),
        (b"abc  one.safetensors\n", "line 1 of .* is 'abc  one.safetensors'"),
        (b"0" * 64 + b"  ../../etc/passwd\n", "line 1"),
        (b"0" * 64 + b"  one.safetensors\n" + b"0" * 70, "line 2"),
        (b"0" * (1 << 21), "line 1"),
    ],
)
def test_sums_that_make_no_sense_get_a_sentence(text: bytes, words: str, folder: Path) -> None:
    (folder / SUMS).write_bytes(text)
    with pytest.raises(ModelError, match=words):
        check_sums(folder)


def test_a_folder_without_sums_says_who_writes_them(folder: Path) -> None:
    (folder / SUMS).unlink()
    with pytest.raises(ModelError, match="holds no SHA256SUMS"):
        check_sums(folder)


def test_info_verifies_a_checkpoint(made: dict[str, Path], omniq) -> None:
    _, verified, _ = omniq("info", str(made["quantize"]), "--verify", "--json")
    assert json.loads(verified)["as_written"] == ["model.safetensors"]
    _, unasked, _ = omniq("info", str(made["quantize"]), "--json")
    assert "as_written" not in json.loads(unasked)
    code, _, _ = omniq("info", "--verify")
    assert code == UsageError.exit_code


def test_info_sees_a_checkpoint_that_changed(made: dict[str, Path], tmp_path: Path, omniq) -> None:
    for path in made["quantize"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(raw)
    assert omniq("info", str(tmp_path))[0] == 0
    code, _, said = omniq("info", str(tmp_path), "--verify")
    assert code == VerificationError.exit_code
    assert "model.safetensors (changed)" in said
