"""Reading and writing checkpoints: nothing false is believed, nothing half-written is left, one tensor in memory."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from omniq.checkpoint import Reader
from omniq.errors import ModelError, OutputError
from omniq.header import DTYPES, TensorInfo
from omniq.shards import tensor_info, write_model, write_safetensors, write_tensors, write_text

FLOAT = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def sample() -> dict[str, Tensor]:
    """Tensors of every dtype, with odd sizes, no elements, no dimensions and strides that are not contiguous."""
    torch.manual_seed(0)
    tensors = {f"x.{name}": torch.randn(3, 5).mul(9).to(dtype) for name, dtype in DTYPES.items()}
    return tensors | {
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "transposed": torch.randn(4, 6).T,
        "name with ünïcode": torch.randn(3),
    }


def same(a: Tensor, b: Tensor) -> bool:
    """Equal dtype, shape and bytes."""
    flat = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*flat)


def raw(path: Path, header: Any, data: bytes = b"\0" * 8) -> Path:
    """Writes a safetensors file by hand; `header` is JSON bytes or a value to encode."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def sources(tensors: dict[str, Tensor]) -> list[tuple[str, TensorInfo, Any]]:
    return [(name, tensor_info(tensor), lambda tensor=tensor: tensor) for name, tensor in tensors.items()]


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """Every file that grows past `nbytes` fails to be written, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    tensors = sample()
    write_tensors(tmp_path / "model.safetensors", tensors, {"format": "pt", "note": "ä"})
    read = load_file(tmp_path / "model.safetensors")
    assert set(read) == set(tensors)
    assert all(same(read[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": "ä"}


def test_what_the_safetensors_library_writes_is_read(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sample().items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    reader = Reader(tmp_path)
    assert set(reader.names()) == set(tensors)
    assert reader.metadata() == {"format": "pt"}
    for name, tensor in tensors.items():
        assert name in reader
        assert reader.info(name) == TensorInfo(tensor.dtype, tuple(tensor.shape))
        assert reader.info(name).nbytes == tensor.nbytes
        assert same(reader.read(name), tensor)
    assert "absent" not in reader


def test_every_tensor_is_written_at_a_multiple_of_its_own_width(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, dtype=torch.int8),
        "b": torch.zeros(3, dtype=torch.float64),
        "c": torch.zeros(3).half(),
    }
    write_tensors(tmp_path / "m.safetensors", tensors)
    content = (tmp_path / "m.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 8 == 0
    assert all(header[name]["data_offsets"][0] % tensors[name].element_size() == 0 for name in tensors)


def test_a_tensor_that_is_read_has_memory_of_its_own(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", {"a": torch.zeros(4)})
    reader = Reader(tmp_path)
    reader.read("a").fill_(7)
    assert torch.equal(reader.read("a"), torch.zeros(4))


@pytest.mark.parametrize("limit", [1, 200, 10**9])
def test_shards_hold_every_tensor_once_and_stay_below_the_limit(tmp_path: Path, limit: int) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in sample().items()}
    paths = write_model(tmp_path, sources(tensors), max_shard_bytes=limit)
    reader = Reader(tmp_path)
    assert all(same(reader.read(name), tensor) for name, tensor in tensors.items())
    assert set(reader.names()) == set(tensors)
    assert {*reader.files()} == {path for path in paths if path.suffix == ".safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    for path in reader.files():
        stored = [tensor.nbytes for tensor in load_file(path).values()]
        assert sum(stored) <= limit or len([size for size in stored if size]) == 1
    if limit == 10**9:
        assert [path.name for path in paths] == ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"] == {"format": "pt", "total_size": sum(tensor.nbytes for tensor in tensors.values())}
        assert set(index["weight_map"]) == set(tensors)


def test_writing_holds_one_tensor_at_a_time(tmp_path: Path) -> None:
    alive: list[weakref.ref[Tensor]] = []

    def make() -> Tensor:
        assert all(ref() is None for ref in alive)
        tensor = torch.zeros(100)
        alive.append(weakref.ref(tensor))
        return tensor

    write_model(tmp_path, [(f"t{i}", TensorInfo(torch.float32, (100,)), make) for i in range(6)], max_shard_bytes=800)
    assert len(alive) == 6


READ_UNDER_LIMIT = """
import resource, sys, mmap
from pathlib import Path
from omniq.checkpoint import Reader
import torch
torch.zeros(10) + 1
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
path = Path(sys.argv[1])
try:
    with open(path, "rb") as file:
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    print("the limit does not bind")
except OSError:
    reader = Reader(path)
    print(max(int(reader.read(name).max()) for name in reader.names()))
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the address space is limited and measured as on Linux"
)
def test_a_model_larger_than_the_address_space_allowed_is_read(tmp_path: Path) -> None:
    count, size = 32, 8 << 20
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]} for i in range(count)
    }
    path = raw(tmp_path / "model.safetensors", entries, b"")
    os.truncate(path, path.stat().st_size + count * size)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", READ_UNDER_LIMIT, path], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "0", done.stdout + done.stderr


MALFORMED = {
    "not json": (b"{nonsense", "valid JSON"),
    "not an object": ([1, 2], "JSON object"),
    "not utf-8": (b'{"\xff": 1}', "valid JSON"),
    "deep nesting": (b"[" * 100_000, "valid JSON"),
    "twice": (b'{"a": 1, "a": 2}', "names 'a' twice"),
    "metadata": ({"__metadata__": {"a": 1}, "a": FLOAT}, "__metadata__"),
    "not a description": ({"a": [1]}, "'a'"),
    "missing key": ({"a": {"dtype": "F32", "shape": [2]}}, "'a'"),
    "extra key": ({"a": {**FLOAT, "more": 1}}, "'a'"),
    "unknown dtype": ({"a": {**FLOAT, "dtype": "F7"}}, "dtype 'F7'"),
    "dtype of wrong type": ({"a": {**FLOAT, "dtype": ["F32"]}}, "dtype"),
    "negative shape": ({"a": {**FLOAT, "shape": [-2]}}, "shape"),
    "fraction in shape": ({"a": {**FLOAT, "shape": [2.0]}}, "shape"),
    "true in shape": ({"a": {**FLOAT, "shape": [True, 2]}}, "shape"),
    "shape not a list": ({"a": {**FLOAT, "shape": 2}}, "shape"),
    "shape overflows": ({"a": {**FLOAT, "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}, "shape"),
    "one offset": ({"a": {**FLOAT, "data_offsets": [0]}}, "data_offsets"),
    "negative offset": ({"a": {**FLOAT, "data_offsets": [-8, 0]}}, "data_offsets"),
    "backwards": ({"a": {**FLOAT, "data_offsets": [8, 0]}}, "takes 8 bytes"),
    "too few bytes": ({"a": {**FLOAT, "data_offsets": [0, 4]}}, "takes 8 bytes"),
    "beyond the end": ({"a": FLOAT, "b": {**FLOAT, "data_offsets": [8, 16]}}, "truncated: tensor 'b'"),
    "overlap": ({"a": FLOAT, "b": {**FLOAT, "data_offsets": [4, 12]}}, "tensor 'b' overlaps"),
    "gap": ({"a": {**FLOAT, "shape": [1], "data_offsets": [4, 8]}}, "leaves 4 bytes unused"),
    "tail": ({"a": {**FLOAT, "shape": [1], "data_offsets": [0, 4]}}, "4 bytes after its last tensor"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_false_header_is_refused_with_the_file_and_the_reason(tmp_path: Path, case: str) -> None:
    header, words = MALFORMED[case]
    path = raw(tmp_path / "model.safetensors", header)
    with pytest.raises(ModelError) as caught:
        Reader(tmp_path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [9, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_longer_than_the_file_or_the_limit_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(ModelError, match=f"header of {length} bytes"):
        Reader(tmp_path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "whole.safetensors", {"a": torch.randn(3), "b": torch.randn(2).half()})
    content = (tmp_path / "whole.safetensors").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut.safetensors").write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"cut\.safetensors"):
            Reader(tmp_path / "cut.safetensors")


def test_a_file_with_any_damaged_byte_is_refused_or_read_within_its_bounds(tmp_path: Path) -> None:
    write_tensors(tmp_path / "whole.safetensors", {"a": torch.randn(3), "b": torch.randn(2).half()})
    content = (tmp_path / "whole.safetensors").read_bytes()
    draw, refused = random.Random(0), 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged)
        try:
            reader = Reader(path)
        except ModelError:
            refused += 1
        else:
            assert sum(reader.read(name).nbytes for name in reader.names()) <= len(content)
    assert refused > len(content) // 4


def test_a_file_that_shrinks_after_it_was_opened_is_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    reader = Reader(tmp_path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ModelError, match="became shorter"):
        reader.read("a")
    path.unlink()
    with pytest.raises(ModelError, match="cannot read tensor 'a'"):
        reader.read("a")
    with pytest.raises(ModelError, match=r"cannot read .*No such file"):
        reader.fingerprint()


def two_shards(folder: Path) -> dict[str, Any]:
    """Writes two shards with their index; the index."""
    write_model(folder, sources({"a": torch.zeros(2), "b": torch.ones(2)}), max_shard_bytes=8)
    return json.loads((folder / "model.safetensors.index.json").read_text())


def rewrite(folder: Path, index: Any) -> None:
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/etc/b.safetensors", "x/b.safetensors", "x\\b.safetensors", "..", "", "b.bin"]
)
def test_an_index_cannot_name_a_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "m").mkdir()
    write_tensors(tmp_path / "b.safetensors", {"b": torch.ones(2)})
    index = two_shards(tmp_path / "m")
    index["weight_map"]["b"] = name
    rewrite(tmp_path / "m", index)
    with pytest.raises(ModelError, match="plain name"):
        Reader(tmp_path / "m")


@pytest.mark.parametrize(
    "index", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', '{"weight_map": ["a"]}', "{", "\udcff"]
)
def test_an_index_without_a_usable_map_is_refused(tmp_path: Path, index: str) -> None:
    two_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_bytes(index.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"index\.json"):
        Reader(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    two_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002\.safetensors"):
        Reader(tmp_path)


def test_an_index_that_places_a_tensor_in_the_wrong_shard_is_refused(tmp_path: Path) -> None:
    index = two_shards(tmp_path)
    index["weight_map"]["c"] = "model-00001-of-00002.safetensors"
    rewrite(tmp_path, index)
    with pytest.raises(ModelError, match=r"'c' in model-00001-of-00002\.safetensors, which does not hold it"):
        Reader(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    two_shards(tmp_path)
    write_tensors(tmp_path / "model-00002-of-00002.safetensors", {"a": torch.zeros(2), "b": torch.ones(2)})
    with pytest.raises(ModelError, match="'a' is in both"):
        Reader(tmp_path)


def test_a_single_file_of_any_name_is_read_and_an_unclear_choice_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights.safetensors", {"a": torch.ones(2)})
    assert Reader(tmp_path).names() == Reader(tmp_path / "weights.safetensors").names() == ("a",)
    write_tensors(tmp_path / "other.safetensors", {"b": torch.ones(2)})
    with pytest.raises(ModelError, match=r"2 safetensors files but no model\.safetensors\.index\.json"):
        Reader(tmp_path)


@pytest.mark.parametrize(("file", "words"), [(None, "no safetensors file"), ("pytorch_model.bin", "pickles")])
def test_a_folder_without_safetensors_is_refused(tmp_path: Path, file: str | None, words: str) -> None:
    if file:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(ModelError, match=words):
        Reader(tmp_path)


def test_a_missing_folder_and_a_missing_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        Reader(tmp_path / "nowhere")
    write_tensors(tmp_path / "model.safetensors", {"a": torch.ones(2)})
    for method in ("read", "info"):
        with pytest.raises(ModelError, match="no tensor 'b'"):
            getattr(Reader(tmp_path), method)("b")


def test_the_fingerprint_is_of_the_contents_alone_and_notices_one_bit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        two_shards(tmp_path / name)
    first = Reader(tmp_path / "a").fingerprint()
    assert first == Reader(tmp_path / "b").fingerprint()
    path = tmp_path / "b" / "model-00002-of-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert first != Reader(tmp_path / "b").fingerprint()


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_what_was_there_and_says_what_is_needed(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "model.safetensors"
    if existing:
        write_tensors(path, {"old": torch.ones(2)})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with file_size_limit(1 << 16), pytest.raises(OutputError) as caught:
        write_tensors(path, {"new": torch.ones(1 << 15)})
    assert str(path) in str(caught.value)
    needed = next(int(word) for word in str(caught.value).split() if word.isdigit())
    assert needed > 4 << 15
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_disk_that_is_full_only_when_data_is_flushed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_text(tmp_path / "config.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_a_later_shard_removes_the_earlier_ones(tmp_path: Path) -> None:
    entries = sources({"a": torch.ones(10), "b": torch.ones(1 << 15)})
    with file_size_limit(1 << 16), pytest.raises(OutputError, match="model-00002-of-00002"):
        write_model(tmp_path, entries, max_shard_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "nowhere" / "config.json", "{}")


def test_a_failure_while_a_tensor_is_made_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Tensor:
        raise ModelError("no such tensor")

    with pytest.raises(ModelError, match="no such tensor"):
        write_safetensors(tmp_path / "m.safetensors", [("a", TensorInfo(torch.float32, (2,)), fail)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(2).half()])
def test_a_tensor_that_is_not_what_was_announced_is_refused(tmp_path: Path, tensor: Tensor) -> None:
    with pytest.raises(ValueError, match="announced"):
        write_safetensors(tmp_path / "m.safetensors", [("a", TensorInfo(torch.float32, (2,)), lambda: tensor)])
    assert list(tmp_path.iterdir()) == []


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        write_safetensors(tmp_path / "m.safetensors", sources({"a": torch.ones(2)}) * 2)


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first", "zweiter größerer Text"):
        write_text(tmp_path / "note.txt", text)
        assert (tmp_path / "note.txt").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
