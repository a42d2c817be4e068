"""Hidden states after a block, kept by some number of processes and taken up by another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omniq import stored_streams
from omniq.calibrate.hidden import in_memory, on_disk
from omniq.calibrate.ranks import ALONE, Ranks
from omniq.calibrate.run import Streams
from omniq.errors import ModelError
from omniq.sealed import Seal

ALL = torch.arange(7 * 2 * 3, dtype=torch.float32).view(7, 2, 3)
SEAL = Seal("run")


def save(folder: Path, index: int, count: int, shift: float = 0.0) -> None:
    """What `count` processes keep after block `index`."""
    for rank in (Ranks(number, count) for number in range(count)):
        own = ALL[rank.index :: count] + shift
        stored_streams.save(folder, SEAL, index, Streams(own, -own), rank)


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_any_number_of_processes_takes_up_what_another_left(
    before: int, after: int, place: str, tmp_path: Path
) -> None:
    save(tmp_path, 4, before)
    room = in_memory if place == "memory" else on_disk(tmp_path)
    for rank in (Ranks(number, after) for number in range(after)):
        found = stored_streams.read(tmp_path, 4, rank, room)
        assert torch.equal(torch.stack(list(found.original)), ALL[rank.index :: after])
        assert torch.equal(torch.stack(list(found.quantized)), -ALL[rank.index :: after])
        assert torch.equal(stored_streams.first(tmp_path, 4, rank, 1), -ALL[rank.index : rank.index + 1])


def test_files_of_which_one_is_missing_are_none(tmp_path: Path) -> None:
    save(tmp_path, 0, 3)
    stored_streams.files(tmp_path, 0)[1].unlink()
    assert stored_streams.files(tmp_path, 0) == []
    with pytest.raises(ModelError, match="lacks the hidden states after block 0"):
        stored_streams.read(tmp_path, 0, ALONE, in_memory)


def test_what_another_number_of_processes_left_of_the_same_block_is_removed(tmp_path: Path) -> None:
    save(tmp_path, 0, 2, shift=100)
    save(tmp_path, 1, 2, shift=100)
    save(tmp_path, 1, 1)
    stored_streams.drop_rivals(tmp_path, 1, ALONE)
    assert torch.equal(stored_streams.read(tmp_path, 1, ALONE, in_memory).original, ALL)
    assert len(stored_streams.files(tmp_path, 0)) == 2


def test_only_those_of_the_last_block_are_kept(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path, index, 2)
    stored_streams.drop_before(tmp_path, 2)
    assert [len(stored_streams.files(tmp_path, index)) for index in range(3)] == [0, 0, 2]
