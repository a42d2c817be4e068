"""Our bytes are the bytes of compressed-tensors: against files which that library wrote (tests/golden/make.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from omniq.formats.base import FORMATS
from omniq.qtensor import QTensor
from omniq.spec import LinearSpec

FILES = sorted((Path(__file__).resolve().parent / "golden").glob("compressed_tensors_*.safetensors"))
FORMAT = FORMATS["compressed-tensors"]


def golden(path: Path) -> tuple[LinearSpec, dict[str, Tensor]]:
    """(spec, tensors by name) of one golden file."""
    with safe_open(path, "pt") as file:
        return LinearSpec.parse(file.metadata()["scheme"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def expected(spec: LinearSpec, tensors: dict[str, Tensor]) -> QTensor:
    """The QTensor of the signed integers that the library was given."""
    codes, zeros = (tensors[name].int() + spec.weight.mid for name in ("integers", "integer_zeros"))
    return QTensor(codes.to(torch.uint8), tensors["weight_scale"], zeros.to(torch.uint8), spec.weight)


def test_there_are_golden_files_of_every_width_and_kind() -> None:
    schemes = {str(golden(path)[0]) for path in FILES}
    assert schemes == {f"W{b}A16{g}{a}" for b in (2, 3, 4, 6, 8) for g in ("", "g32") for a in ("", "-asym")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_the_library_packed_unpacks_to_the_integers_it_was_given(path: Path) -> None:
    spec, tensors = golden(path)
    packed = {name: tensors[name] for name in FORMAT.leaves(spec)}
    assert FORMAT.unpack(packed, spec, tuple(tensors["integers"].shape)).equal(expected(spec, tensors))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_packing_those_integers_gives_the_bytes_that_the_library_wrote(path: Path) -> None:
    spec, tensors = golden(path)
    packed = FORMAT.pack(expected(spec, tensors))
    assert set(packed) == {name for name in tensors if name.startswith("weight_")}
    for name, tensor in packed.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_weight_is_the_one_that_the_library_expands_to(path: Path) -> None:
    spec, tensors = golden(path)
    assert torch.equal(expected(spec, tensors).dequantize(), tensors["expanded"])
