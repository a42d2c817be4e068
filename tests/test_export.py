"""omniq export: the same integers in every layout, weights multiplied out, what is refused, what a stop leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from quantised import Made, maker
from safetensors.torch import load_file, save_file
from tiny import tokens
from torch import Tensor

import omniq as package
import omniq.exporting.targets.dense as dense_target
import omniq.exporting.targets.layout as layout_target
from omniq.checkpoint import Reader
from omniq.errors import ModelError, OmniqError, OutputError, UnsupportedError, UsageError, VerificationError
from omniq.exporting.base import TARGETS, Choices
from omniq.exporting.checking import same_bits, same_numbers
from omniq.exporting.origin import Origin
from omniq.exporting.rounding import Error, nearest, rounded
from omniq.exporting.run import export, plan
from omniq.exporting.targets.layout import Layout, settled
from omniq.formats.base import FORMATS
from omniq.formats.compressed_tensors import CompressedTensors
from omniq.hf import load_dense
from omniq.qtensor import QTensor
from omniq.runtime import info, load
from omniq.spec import LinearSpec, QuantSpec

SCHEMES = ("W4A16g32", "W4A16g32-asym", "W8A16", "W3A16g32", "W2A16g32")
SHAPES = ((64, 64), (32, 64), (96, 64), (64, 96))
"""Of the linears of the tiny Llama."""
CT = "compressed-tensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A tiny model quantised to nearest."""
    return maker(tmp_path_factory.mktemp("made"))


def numbers(folder: Path) -> dict[str, QTensor]:
    """The integers of every linear and table of a checkpoint."""
    origin = Origin(folder)
    tables = origin.tables()
    found = {layer.name: origin.weight(layer) for layer in origin.layers}
    pairs = {"embedding": tables.embedding, "head": tables.head}
    return found | {name: q for name, q in pairs.items() if q is not None}


def assert_equal(found: Mapping[str, QTensor], wanted: Mapping[str, QTensor]) -> None:
    """Every stored number is the same, scales in the same dtype."""
    assert list(found) == list(wanted)
    assert [name for name in found if not found[name].equal(wanted[name])] == []


def able(scheme: str) -> list[str]:
    """The formats of the registry that can store a tiny Llama of this scheme."""
    spec = LinearSpec.parse(scheme)
    return [name for name, form in FORMATS.items() if not any(form.refuse(spec, shape) for shape in SHAPES)]


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def edited(folder: Path, **values: Any) -> Path:
    """The folder with other values in config.json."""
    (folder / "config.json").write_text(json.dumps(config(folder) | values))
    return folder


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens(), use_cache=False).logits.float()


# The same integers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_between_any_two_formats_and_back_every_integer_and_scale_is_the_same(
    scheme: str, made: Made, tmp_path: Path
) -> None:
    origin = made(scheme=scheme)
    wanted = numbers(origin)
    for first in able(scheme):
        export(origin, tmp_path / first, first)
        for second in able(scheme):
            there = tmp_path / f"{first}-{second}"
            if first != second:
                export(tmp_path / first, there, second)
                assert_equal(numbers(there), wanted)


def test_every_format_can_store_some_tiny_model() -> None:
    assert {name for scheme in SCHEMES for name in able(scheme)} == set(FORMATS)


@pytest.mark.parametrize("name", ["mixtral", "opt", "gemma3_text", "llama-tied"])
def test_what_is_not_quantised_is_copied_bit_for_bit(name: str, made: Made, tmp_path: Path) -> None:
    origin = made(name)
    for target in able("W4A16g32"):
        out = tmp_path / target
        export(origin, out, target)
        before, after = load_file(origin / "model.safetensors"), load_file(out / "model.safetensors")
        copied = {leaf for leaf in before if not leaf.endswith(CompressedTensors().leaves(LinearSpec(QuantSpec(4))))}
        assert copied
        assert all(same_bits(before[leaf], after[leaf]) for leaf in copied)
        assert any(leaf.endswith(".bias") for leaf in copied) == (name == "opt")
        for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (out / file).read_bytes() == (origin / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "scheme", "options"),
    [
        ("llama-tied", "W4A16g32", {"embed_bits": 8}),
        ("llama", "W4A16g32", {"embed_bits": 8}),
        ("llama", "W4A16g32", {"embed_bits": 4}),
        ("llama", "W4A4", {"rotate": "inputs"}),
        ("llama", "W4A8", {"attention": True}),
        ("llama", "W4A16g16", {"avg_bits": 3.0}),
    ],
    ids=str,
)
def test_what_only_one_format_can_say_survives_an_export_to_itself(
    name: str, scheme: str, options: dict, made: Made, tmp_path: Path
) -> None:
    origin, out = made(name, scheme, torch.float32, **options), tmp_path / "out"
    report = export(origin, out, CT)
    assert_equal(numbers(out), numbers(origin))
    assert config(out)["quantization_config"] == config(origin)["quantization_config"]
    assert torch.equal(logits(load(out)), logits(load(origin)))
    assert bool(report.notes) == (scheme != "W4A16g32" and scheme != "W4A16g16")


def test_a_linear_that_the_checkpoint_leaves_alone_stays_so(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "partly"
    shutil.copytree(made(), folder)
    name = "model.layers.1.mlp.down_proj"
    tensors = load_file(folder / "model.safetensors")
    for leaf in CompressedTensors().leaves(LinearSpec(QuantSpec(4))):
        del tensors[f"{name}.{leaf}"]
    tensors[f"{name}.weight"] = torch.full((64, 96), 0.5, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors")
    entry = config(folder)["quantization_config"]
    edited(folder, quantization_config=entry | {"ignore": [*entry["ignore"], name]})
    for target in able("W4A16g32"):
        export(folder, tmp_path / target, target)
        assert name not in numbers(tmp_path / target)
        assert torch.equal(Reader(tmp_path / target).read(f"{name}.weight"), tensors[f"{name}.weight"])


def test_a_small_shard_size_makes_several_files_with_an_index(made: Made, tmp_path: Path) -> None:
    for target in ("dense", CT):
        export(made(), tmp_path / target, target, max_shard_bytes=30_000)
        assert len(list((tmp_path / target).glob("model-*-of-*.safetensors"))) > 2
    export(tmp_path / CT, tmp_path / "again", CT)
    assert_equal(numbers(tmp_path / "again"), numbers(made()))


def test_a_scale_goes_back_to_the_dtype_of_the_model_only_where_that_holds_it() -> None:
    def with_scale(value: float, dtype: torch.dtype) -> QTensor:
        codes, zeros = torch.zeros(1, 4, dtype=torch.uint8), torch.full((1, 1), 8, dtype=torch.uint8)
        return QTensor(codes, torch.tensor([[value]], dtype=dtype), zeros, QuantSpec(4))

    assert settled(with_scale(0.75, torch.float16), torch.bfloat16).scales.dtype == torch.bfloat16
    kept = with_scale(1 + 2**-10, torch.float16)
    assert settled(kept, torch.bfloat16) is kept


# Weights multiplied out --------------------------------------------------------------------------------------------


def exact(q: QTensor) -> np.ndarray:
    """(q - z) * s (N, K): integers below 2**8 times at most 24 bits, which float64 holds."""
    width = q.codes.shape[1] // q.scales.shape[1]
    spread = lambda tensor: np.repeat(tensor.double().numpy(), width, axis=1)  # noqa: E731
    return (q.codes.double().numpy() - spread(q.zeros)) * spread(q.scales)


def is_nearest(rounded: Tensor, wanted: np.ndarray) -> bool:
    """Whether no neighbour of `rounded` is nearer to `wanted`, and of two as near it is the even one."""
    own = np.abs(rounded.double().numpy() - wanted)
    for direction in (-torch.inf, torch.inf):
        other = torch.nextafter(rounded, torch.full_like(rounded, direction))
        distance = np.abs(other.double().numpy() - wanted)
        even = (rounded.view(torch.int16 if rounded.element_size() == 2 else torch.int32) & 1 == 0).numpy()
        if not ((own < distance) | ((own == distance) & even)).all():
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_value_is_rounded_once_also_where_twice_would_be_another(dtype: torch.dtype) -> None:
    step = torch.finfo(dtype).eps
    grid = 1 + step * torch.arange(16, dtype=torch.float64)
    halves = grid + step / 2
    values = torch.cat([sign * (base + nudge) for sign in (1, -1) for base in (grid, halves) for nudge in
                        (0, 2.0**-40, -(2.0**-40), 2.0**-26, -(2.0**-26))])  # fmt: skip
    assert is_nearest(nearest(values, dtype), values.numpy())
    if dtype != torch.float32:
        assert not is_nearest(values.to(torch.float32).to(dtype), values.numpy())


@pytest.mark.parametrize("scheme", ["W4A16g32", "W4A16g32-asym", "W2A16g16", "W8A16"])
@pytest.mark.parametrize("dtype", TARGETS["dense"].dtypes, ids=str)
def test_dense_weights_are_the_exact_products_rounded_once(
    scheme: str, dtype: torch.dtype, made: Made, tmp_path: Path
) -> None:
    origin = made(scheme=scheme, dtype=torch.float32)
    report = export(origin, tmp_path / "out", "dense", dtype=dtype)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, q in numbers(origin).items():
        weight = written.pop(f"{name}.weight")
        assert weight.dtype == dtype
        assert is_nearest(weight, exact(q))
    assert all(same_bits(tensor, Reader(origin).read(name)) for name, tensor in written.items())
    assert "quantization_config" not in config(tmp_path / "out")
    assert str(dtype).removeprefix("torch.") in report.notes[-1]


def test_how_far_rounding_moved_the_weights_is_told_as_it_is() -> None:
    codes = torch.tensor([[9, 11, 8, 15]], dtype=torch.uint8)
    zeros = torch.full((1, 1), 8, dtype=torch.uint8)
    q = QTensor(codes, torch.tensor([[1 + 2**-7]], dtype=torch.float32), zeros, QuantSpec(4))
    error = Error()
    rounded(q, torch.bfloat16, error)
    # 1, 3, 0 and 7 times 1 + 2**-7: 3 + 3/128 is 1/128 from 3 + 1/32 or 3 + 1/64; 7 + 7/128 is 1/128 from 7 + 1/16.
    moved, total = np.array([0, 1 / 128, 0, 1 / 128]), np.array([1, 3, 0, 7]) * (1 + 2**-7)
    assert error.largest == pytest.approx(1 / 128 / total[1], rel=1e-12)
    assert error.change / error.total == pytest.approx((moved**2).sum() / (total**2).sum(), rel=1e-12)
    assert "not exact in bfloat16" in error.in_words(torch.bfloat16)
    none = Error()
    rounded(q, torch.float32, none)
    assert none.in_words(torch.float32) == "every weight (q - z) * s is exact in float32"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {}),
        ("llama-tied", {"embed_bits": 8}),
        ("llama", {"embed_bits": 4}),
        ("mixtral", {}),
        ("qwen3_moe", {}),
        ("opt", {}),
        ("gemma3_text", {}),
        ("gpt_neox", {}),
    ],
    ids=str,
)
def test_transformers_computes_the_same_logits_from_dense_weights(
    name: str, options: dict, made: Made, tmp_path: Path
) -> None:
    origin = made(name, "W2A16g16", torch.float32, **options)
    export(origin, tmp_path / "out", "dense")
    wanted, found = logits(load(origin)), logits(load_dense(tmp_path / "out"))
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    unquantised = logits(load_dense(origin.parent / "model"))
    assert (unquantised - wanted).abs().max() > 1e-2 * wanted.abs().max()


def test_a_dense_model_is_computed_in_a_dtype_that_holds_its_weights(made: Made, tmp_path: Path) -> None:
    origin = made()
    for dtype, wanted in ((torch.float32, torch.float32), (None, torch.bfloat16), (torch.float16, torch.float32)):
        out = tmp_path / str(dtype)
        export(origin, out, "dense", dtype=dtype)
        assert load_dense(out).dtype == wanted


# What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("W4A8", {"attention": False}, ("model.layers.0.self_attn.q_proj as W4A8", "rounds its inputs")),
        ("W4A4", {"rotate": "inputs"}, ("model.layers.0.self_attn.q_proj as W4A4", "transforms its inputs")),
    ],
)
def test_dense_refuses_what_weights_alone_cannot_say_and_names_who_can(
    scheme: str, options: dict, words: tuple[str, ...], made: Made, tmp_path: Path
) -> None:
    origin = made("llama", scheme, torch.float32, **options)
    for attempt in (plan, export):
        with pytest.raises(UnsupportedError) as refusal:
            attempt(origin, tmp_path / "out", "dense")
        assert all(word in str(refusal.value) for word in (*words, f"What can: --format {CT}."))
    assert list(tmp_path.iterdir()) == []


def test_dense_refuses_a_grid_inside_attention(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    edited(folder, omniq={"attention": {"bits": 8}})
    with pytest.raises(UnsupportedError, match="q, k and v inside attention are rounded to 8 bits"):
        export(folder, tmp_path / "out", "dense")


class Narrow(CompressedTensors):
    """A format like the usual one that has no tables, only groups, and keeps scales as int8 eighths."""

    loaders = "nobody"

    def __init__(self) -> None:
        self.tables = None

    def refuse(self, spec: LinearSpec, shape: tuple[int, int]) -> str | None:
        return "only groups are known here" if spec.weight.group_size == -1 else super().refuse(spec, shape)

    def pack(self, q: QTensor) -> dict[str, Tensor]:
        coarse = (q.scales.double() * 8).round() / 8
        return super().pack(replace(q, scales=coarse.to(q.scales.dtype)))

    def parse(self, config: Mapping[str, Any], names: tuple[str, ...]) -> None:
        return None


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a format that can hold little."""
    form = Narrow()
    assert len(FORMATS) <= len(TARGETS)  # both are filled before the planted format is
    monkeypatch.setitem(FORMATS._entries, "narrow", form)
    monkeypatch.setitem(TARGETS._entries, "narrow", Layout("narrow", form))
    return "narrow"


def test_a_layer_that_the_format_cannot_hold_is_refused_before_any_weight_is_read(
    narrow: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = made(scheme="W4A16")
    monkeypatch.setattr(Reader, "read", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(UnsupportedError) as refusal:
        export(origin, tmp_path / "out", narrow)
    sentence = str(refusal.value)
    assert "model.layers.0.self_attn.q_proj as W4A16: only groups are known here" in sentence
    assert "What can: " in sentence
    assert {CT, "dense"} <= set(sentence.partition("What can: --format ")[2].rstrip(".").split(" or "))


def test_tables_of_few_bits_are_refused_where_there_is_no_place_for_them(
    narrow: str, made: Made, tmp_path: Path
) -> None:
    with pytest.raises(
        UnsupportedError, match=r"embedding table as W8A16g32.*What can: --format compressed-tensors or dense"
    ):
        export(made("llama", embed_bits=8), tmp_path / "out", narrow)


def test_numbers_that_do_not_fit_are_refused_with_the_tensor_and_leave_nothing(
    narrow: str, made: Made, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        export(made(), tmp_path / "out", narrow)
    sentence = str(refusal.value)
    assert "model.layers.0.self_attn.q_proj: its scales would come out as other numbers" in sentence
    assert "What can: " in sentence
    assert {CT, "dense"} <= set(sentence.partition("What can: --format ")[2].rstrip(".").split(" or "))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["dense", CT])
def test_a_damaged_linear_is_named(target: str, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj of .*NaN"):
        export(folder, tmp_path / "out", target)
    assert [path.name for path in tmp_path.iterdir()] == ["origin"]


def test_half_precision_that_overflows_is_refused_with_the_tensor(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"].fill_(1e5)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"model.layers.1.mlp.up_proj.weight has values beyond .* float16"):
        export(folder, tmp_path / "out", "dense", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["origin"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"format": "gtpq"}, UsageError, "gtpq"),
        ({"format": CT, "dtype": torch.float16}, UsageError, "stores integers"),
        ({"format": "dense", "dtype": torch.float64}, UsageError, "float32 or bfloat16 or float16"),
        ({"out": "occupied"}, OutputError, "--overwrite"),
        ({"out": "origin"}, OutputError, "not empty"),
        ({"out": "origin", "overwrite": True}, OutputError, "the model itself"),
        ({"checkpoint": "model"}, ModelError, "not quantised"),
        ({"checkpoint": "nowhere"}, ModelError, "not a folder"),
    ],
    ids=str,
)
@pytest.mark.parametrize("attempt", [plan, export])
def test_arguments_that_cannot_work_are_sentences(
    change: dict, kind: type[OmniqError], words: str, attempt: Callable, made: Made, tmp_path: Path
) -> None:
    shutil.copytree(made(), tmp_path / "origin")
    shutil.copytree(made().parent / "model", tmp_path / "model")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").touch()
    asked = {"checkpoint": "origin", "out": "out", "format": "dense"} | change
    places = {key: tmp_path / asked.pop(key) for key in ("checkpoint", "out")}
    with pytest.raises(kind, match=words):
        attempt(**places, **asked)


def test_an_unfinished_quantisation_to_the_same_place_is_left_alone(made: Made, tmp_path: Path) -> None:
    (tmp_path / ".out.omniq").mkdir()
    (tmp_path / ".out.omniq" / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="unfinished quantisation"):
        export(made(), tmp_path / "out", "dense")
    assert (tmp_path / ".out.omniq" / "run.json").is_file()


# Whole or not at all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["dense", CT])
@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OutputError("the disk is full"), MemoryError()], ids=repr)
def test_an_export_that_stops_leaves_nothing(
    target: str, stop: BaseException, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def stopping(self: Origin, layer: Any) -> QTensor:
        seen.append(layer)
        if len(seen) == 9:
            raise stop
        return weight(self, layer)

    weight = Origin.weight
    monkeypatch.setattr(Origin, "weight", stopping)
    with pytest.raises(type(stop)):
        export(made(), tmp_path / "out", target)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_beside_the_output_is_no_obstacle(made: Made, tmp_path: Path) -> None:
    left = tmp_path / ".out.omniq" / "result.parts"
    left.mkdir(parents=True)
    (left / "0.safetensors").write_bytes(b"half")
    export(made(), tmp_path / "out", CT)
    assert_equal(numbers(tmp_path / "out"), numbers(made()))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["dense", CT])
@pytest.mark.parametrize("damaged", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_one_wrong_bit_in_what_was_written_ends_the_export(
    target: str, damaged: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"dense": dense_target, CT: layout_target}[target]

    def damaging(result: Path, *rest: Any) -> None:
        write(result, *rest)
        tensors = load_file(result / "model.safetensors")
        name = next(name for name in tensors if name.startswith(damaged))
        tensors[name].view(torch.uint8).view(-1)[0] ^= 1
        save_file(tensors, result / "model.safetensors")

    write = module.write_folder
    monkeypatch.setattr(module, "write_folder", damaging)
    with pytest.raises(VerificationError, match=damaged.removesuffix(".weight")) as failure:
        export(made(), tmp_path / "out", target)
    assert failure.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_says_other_bits_ends_the_export(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layout, "entry", lambda self, origin: config(made(scheme="W4A16g16"))["quantization_config"])
    with pytest.raises(OmniqError):
        export(made(), tmp_path / "out", CT)
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_the_same_only_with_the_same_codes_zero_points_and_scales() -> None:
    codes, zeros = torch.zeros(2, 4, dtype=torch.uint8), torch.full((2, 1), 8, dtype=torch.uint8)
    q = QTensor(codes, torch.full((2, 1), 0.5), zeros, QuantSpec(4))
    assert same_numbers(q, replace(q, scales=q.scales.half()))
    assert same_numbers(q, replace(q, spec=QuantSpec(4, symmetric=False)))
    for change in ({"codes": codes + 1}, {"zeros": zeros + 1}, {"scales": q.scales + 2**-20}, {"spec": QuantSpec(3)}):
        assert not same_numbers(q, replace(q, **change))


def test_overwrite_replaces_a_model_and_only_when_the_new_one_is_whole(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(made(), out, CT)
    with monkeypatch.context() as patch:
        patch.setattr(dense_target, "same_bits", lambda *_: False)
        with pytest.raises(VerificationError):
            export(made(), out, "dense", overwrite=True)
    assert "quantization_config" in config(out)
    export(made(), out, "dense", overwrite=True)
    assert "quantization_config" not in config(out)


class Single:
    """A target of one file, which holds the names of the linears."""

    summary, loaders, suffix, dtypes = "names", "people", ".names", ()

    def refuse(self, origin: Origin, choices: Choices) -> None:
        return None

    def loaded_by(self, origin: Origin) -> tuple[str, ...]:
        return ("people: yes.",)

    def nbytes(self, origin: Origin, choices: Choices) -> int:
        return 500

    def write(self, origin: Origin, result: Path, choices: Choices, on_event: Any) -> tuple[str, ...]:
        result.write_text("\n".join(layer.name for layer in origin.layers))
        return ("written",)

    def verify(self, origin: Origin, result: Path, choices: Choices) -> None:
        if len(result.read_text().splitlines()) != 14:
            raise VerificationError("names are missing")


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> type[Single]:
    """A target of one file, registered as 'single'."""
    assert len(TARGETS)  # filled before the planted one is
    monkeypatch.setitem(TARGETS._entries, "single", Single())
    return Single


def test_a_file_is_there_only_when_it_is_whole_and_replaced_only_when_told(
    single: type[Single], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.names"
    report = export(made(), out, "single")
    assert report.size_after == out.stat().st_size
    assert report.notes == ("written",)
    assert [path.name for path in tmp_path.iterdir()] == ["out.names"]
    whole = out.read_text()
    with pytest.raises(OutputError, match="--overwrite"):
        export(made(), out, "single")
    with monkeypatch.context() as patch:
        patch.setattr(single, "write", lambda self, origin, result, *_: result.write_text("one"))
        with pytest.raises(VerificationError):
            export(made(), out, "single", overwrite=True)
    assert out.read_text() == whole
    out.write_text("old")
    export(made(), out, "single", overwrite=True)
    assert out.read_text() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.names"]


@pytest.mark.parametrize(("name", "kind"), [("out", UsageError), ("out.gguf", UsageError), ("", OutputError)])
def test_a_file_must_have_its_ending_and_be_no_folder(
    name: str, kind: type[OmniqError], single: type[Single], made: Made, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=r"one file, so name it \*\.names"):
        plan(made(), tmp_path / name, "single")


# What is told ------------------------------------------------------------------------------------------------------


def test_the_record_names_every_export_on_the_way_and_keeps_what_was_there(made: Made, tmp_path: Path) -> None:
    origin = made()
    export(origin, tmp_path / "a", CT)
    export(tmp_path / "a", tmp_path / "b", "dense", dtype=torch.float32)
    block = config(tmp_path / "b")["omniq"]
    first = {"from": CT, "to": CT, "version": package.__version__}
    assert block.pop("exports") == [first, first | {"to": "dense", "dtype": "float32"}]
    assert block == config(origin)["omniq"]


def test_the_description_that_another_tool_repeats_is_not_carried_over(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    for target in ("dense", CT):
        export(folder, tmp_path / target, target)
        assert not (tmp_path / target / "quantize_config.json").exists()


def test_the_card_says_how_to_load_and_keeps_what_was_measured(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    measured = {"ppl_original": 10.0, "ppl": 11.25, "kl": 0.03, "top1": 0.9, "tokens": 99, "protocol": "99 tokens"}
    edited(folder, omniq={"base_model": "some/model", "quality": measured})
    (folder / "README.md").write_text(f"---\nlicense: mit\ntags: [mine, quantized, {CT}]\n---\n")
    for target in ("dense", CT):
        export(folder, tmp_path / target, target)
        card = (tmp_path / target / "README.md").read_text()
        front = yaml.safe_load(card.split("---\n")[1])
        assert (front["base_model"], front["license"]) == ("some/model", "mit")
        assert front["tags"] == ["mine", "omniq", *(["quantized", CT] if target == CT else ["dequantized"])]
        assert "11.250" in card
        assert "Measured on 99 tokens." in card
        assert "AutoModelForCausalLM" in card
        assert ("omniq.load" in card and "```python\nimport omniq" in card) == (target == CT)


@pytest.mark.parametrize("quality", [3, {}, {"ppl": 3.0, "protocol": "x"}, {"protocol": 3}], ids=str)
def test_a_damaged_record_of_quality_is_not_shown(quality: Any, made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "origin"
    shutil.copytree(made(), folder)
    edited(folder, omniq={"quality": quality})
    export(folder, tmp_path / "out", CT)
    assert "Not measured." in (tmp_path / "out" / "README.md").read_text()


def test_the_plan_is_what_the_export_then_is(made: Made, tmp_path: Path) -> None:
    for target in (*able("W4A16g32"), "dense"):
        before, done = plan(made(), tmp_path / target, target), export(made(), tmp_path / target, target)
        assert (before.schemes, before.loaders, before.origin) == (done.schemes, done.loaders, done.origin)
        assert before.schemes == {"W4A16g32": 14}
        assert before.size_after == pytest.approx(done.size_after, rel=0.15)


def test_every_target_lists_who_loads_it_and_nothing_is_listed_twice(omniq) -> None:
    rows = json.loads(omniq("list", "formats", "--json")[1])["formats"]
    assert [row["name"] for row in rows] == list(TARGETS)
    assert all(row["loaded by"] for row in rows)
    only = [row["name"] for row in rows if row["written by"] == "omniq export"]
    assert set(only) == set(TARGETS) - set(FORMATS)
    assert "dense" in only


def test_the_command_exports_and_prints_one_object(made: Made, tmp_path: Path, omniq) -> None:
    words = ("export", str(made()), "--format", "dense", "--dtype", "float32", "-o", str(tmp_path / "out"), "--json")
    code, out, _ = omniq(*words, "--dry-run")
    assert code == 0
    assert json.loads(out)["target"] == "dense"
    assert list(tmp_path.iterdir()) == []
    code, out, err = omniq(*words)
    assert code == 0
    assert json.loads(out)["verified"] is True
    assert "block 2/2" in err
    assert config(tmp_path / "out")["omniq"]["exports"][-1]["dtype"] == "float32"
    assert info(tmp_path / "out")["quantized"] is False


def test_the_command_ends_with_the_code_of_its_error(made: Made, tmp_path: Path, omniq) -> None:
    origin = made("llama", "W4A8", torch.float32, attention=False)
    code, out, err = omniq("export", str(origin), "--format", "dense", "-o", str(tmp_path / "out"))
    assert (code, out) == (UnsupportedError.exit_code, "")
    assert f"What can: --format {CT}." in " ".join(err.split())


def test_plan_and_report_are_tables_for_people(made: Made, tmp_path: Path, omniq) -> None:
    words = ("export", str(made("llama", embed_bits=8)), "--format", CT, "-o", str(tmp_path / "out"))
    assert "nothing has been written" in omniq(*words, "--dry-run")[1]
    shown = omniq(*words)[1]
    assert all(words in shown for words in ("14 W4A16g32", "embedding table", "every number is the checkpoint's"))


def test_export_is_reachable_from_the_package() -> None:
    assert package.export is export
    assert Choices().dtype is None
