"""Hidden states in files do all that hidden states in memory do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from omniq.calibrate.hidden import OnDisk, filled, in_memory, on_disk, opened
from omniq.errors import ModelError, OutputError

SHAPE = (5, 3, 4)


@pytest.fixture
def values() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def stored(values: Tensor, tmp_path: Path) -> OnDisk:
    return filled(on_disk(tmp_path), len(values), values.split(2))


def test_what_was_put_in_comes_out(values: Tensor, stored: OnDisk) -> None:
    assert stored.shape == values.shape
    assert len(stored) == len(values)
    assert torch.equal(torch.stack(list(stored)), values)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_batches_are_those_of_a_tensor(size: int, values: Tensor, stored: OnDisk) -> None:
    for mine, theirs in zip(stored.split(size), values.split(size), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("rows", [[0], [4, 0, 2], [1, 1], []])
def test_chosen_sequences_are_those_of_a_tensor(rows: list[int], values: Tensor, stored: OnDisk) -> None:
    chosen = torch.tensor(rows, dtype=torch.long)
    assert torch.equal(stored[chosen], values[chosen])


@pytest.mark.parametrize("part", [slice(None, 2), slice(1, 4), slice(3, None), slice(2, 2)])
def test_a_slice_is_a_view_of_the_same_file(part: slice, values: Tensor, stored: OnDisk) -> None:
    assert torch.equal(torch.cat([torch.empty(0, *SHAPE[1:]), *stored[part].split(2)]), values[part])
    assert stored[part].file is stored.file


def test_writing_in_one_place_leaves_the_others(values: Tensor, stored: OnDisk) -> None:
    stored[1:3] = torch.zeros(2, *SHAPE[1:])
    values[1:3] = 0
    assert torch.equal(torch.stack(list(stored)), values)


def test_nothing_is_left_in_the_folder(stored: OnDisk, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert len(list(stored)) == len(stored)


def test_a_place_that_is_not_filled_is_refused(values: Tensor) -> None:
    with pytest.raises(ValueError, match="4 of 5"):
        filled(in_memory, 5, [values[:4]])


def test_a_file_that_became_shorter_is_an_error(values: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "values"
    path.write_bytes(values.numpy().tobytes()[:-1])
    with pytest.raises(ModelError, match="became shorter"):
        list(opened(path, SHAPE, 0))


def test_a_folder_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot keep hidden states in"):
        on_disk(tmp_path / "gone")(SHAPE)
