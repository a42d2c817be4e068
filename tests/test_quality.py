"""benchmarks/quality.py without a peer installed: what it reads off a dense model, its rows and its tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny
from torch import Tensor, nn

from omniq.checkpoint import Reader
from omniq.hf import OpenModel, open_model
from omniq.spec import QuantSpec

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
GROUP = 32


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """quality_rows with a CSV of the test's own."""
    import quality_rows

    monkeypatch.setattr(quality_rows, "CSV", tmp_path / "quality.csv")
    return quality_rows


def weights(bits: int, zero: str, dtype: torch.dtype, mirrored: bool = False) -> Tensor:
    """(48, 128) float32 on a grid made by hand, groups of 32."""
    random = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (48, 4, GROUP), generator=random)
    codes[0, 0] = 0  # a group that uses one code
    codes[1, 0] = codes[1, 0].clamp(max=1) * (2**bits - 1)  # and one that uses the two ends
    scale = (torch.rand(48, 4, 1, generator=random) + 0.1).to(dtype).float() * (-1 if mirrored else 1)
    zeros = {
        "middle": torch.full((48, 4, 1), 2.0 ** (bits - 1)),
        "whole": torch.randint(0, 2**bits, (48, 4, 1), generator=random).float(),
        "any": torch.rand(48, 4, 1, generator=random) * 2**bits + 0.3,
    }
    return ((codes - zeros[zero]) * scale).reshape(48, 128)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_grid_is_read_off_its_numbers(bits: int, mirrored: bool, dtype: torch.dtype) -> None:
    from quality_grid import Grid, grid_of

    scale_bits = 32 if dtype == torch.float32 else 16
    for zero, zero_bits in (("middle", 0), ("whole", bits)):
        found = grid_of(weights(bits, zero, dtype, mirrored), bits, GROUP)
        assert found == Grid(2**bits, zero_bits, scale_bits)
    assert grid_of(weights(bits, "any", dtype, mirrored)[2:], bits, GROUP) == Grid(2**bits, 16, scale_bits)


@pytest.mark.parametrize("bits", [3, 4])
def test_a_finer_grid_and_wider_groups_do_not_pass(bits: int) -> None:
    from quality_grid import grid_of

    made = weights(bits, "whole", torch.float16)
    assert grid_of(made, bits - 1, GROUP) is None
    assert grid_of(made, bits, 2 * GROUP) is None


def test_uneven_steps_do_not_pass() -> None:
    from quality_grid import grid_of

    uneven = torch.tensor([-1.0, -0.31, 0.3, 1.1]).repeat(48, 32)
    assert grid_of(uneven, 2, GROUP) is None


class Doubled(nn.Module):
    """A layer that stores half of its matrix: only a multiplication tells."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.stored = nn.Parameter(matrix / 2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (2 * self.stored).T


def test_the_dense_folder_holds_what_the_layers_multiply_by(tmp_path: Path) -> None:
    from peers.dense import write_dense

    state = {"table.weight": torch.randn(5, 4), "norm.weight": torch.randn(4), "linear.weight": torch.randn(3, 4)}
    (tmp_path / "model").mkdir()
    save_file(state, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "hidden": 4}))
    model = nn.ModuleDict({"table": nn.Embedding(5, 4), "norm": nn.LayerNorm(4, bias=False)})
    model.load_state_dict({name: state[name] for name in ("table.weight", "norm.weight")})
    model["linear"] = Doubled(state["linear.weight"])
    write_dense(model, tmp_path / "model", tmp_path / "dense")
    written = load_file(tmp_path / "dense" / "model.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state)
    assert json.loads((tmp_path / "dense" / "config.json").read_text()) == {"dtype": "float32", "hidden": 4}


def test_every_optimiser_step_is_counted_from_the_call_on() -> None:
    from peers.steps import counted_steps

    param = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([param], lr=0.1)
    param.grad = torch.ones(1)
    optimizer.step()
    count = counted_steps()
    for _ in range(3):
        optimizer.step()
    assert count() == 3


def test_tokens_count_only_when_they_are_read(tmp_path: Path) -> None:
    from peers.task import Task, Tokens

    save_file({"ids": torch.arange(6).view(2, 3)}, tmp_path / "ids.safetensors")
    tokens = Tokens(tmp_path / "ids.safetensors")
    assert tokens.read == 0
    assert tokens().shape == (2, 3)
    assert tokens.read == 6
    task = Task(tmp_path, tmp_path / "ids.safetensors", 3, 64, True, tmp_path, {"iters": 2})
    task.write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == task


@pytest.fixture
def quantised(tmp_path: Path) -> tuple[OpenModel, dict[str, Tensor]]:
    """A tiny model, opened, and its tensors with every linear of the blocks rounded to three bits by hand."""
    opened = open_model(save_tiny("llama", tmp_path / "model"))
    state = load_file(tmp_path / "model" / "model.safetensors")
    for name in opened.linears:
        weight = state[f"{name}.weight"].view(-1, GROUP)
        scale = (weight.abs().amax(dim=1, keepdim=True) / 4).half().float()
        state[f"{name}.weight"] = ((weight / scale).round().clamp(-4, 3) * scale).view(state[f"{name}.weight"].shape)
    return opened, state


def test_bits_and_layers_of_a_peer_are_read_off_its_output(
    quantised: tuple[OpenModel, dict[str, Tensor]], tmp_path: Path
) -> None:
    from quality_check import checked

    opened, state = quantised
    save_file(state, tmp_path / "dense.safetensors")
    found = checked(opened, Reader(tmp_path / "dense.safetensors"), QuantSpec(3, GROUP))
    assert found == {"bits_per_weight": 3 + 16 / GROUP, "layers": len(opened.linears)}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.layers.1.mlp.up_proj.weight", lambda w: w + 0.01 * torch.randn_like(w), "not on a grid of 8"),
        ("model.layers.0.mlp.up_proj.weight", lambda w: w - w.view(-1, GROUP).amin(), "zero points of its own"),
        ("model.embed_tokens.weight", lambda w: w * 1.1, "embed_tokens.weight was changed"),
    ],
)
def test_a_peer_that_did_something_else_is_refused(
    quantised: tuple[OpenModel, dict[str, Tensor]],
    tmp_path: Path,
    name: str,
    change: Callable[[Tensor], Tensor],
    said: str,
) -> None:
    from quality_check import checked

    opened, state = quantised
    save_file(state | {name: change(state[name])}, tmp_path / "dense.safetensors")
    with pytest.raises(SystemExit, match=said):
        checked(opened, Reader(tmp_path / "dense.safetensors"), QuantSpec(3, GROUP))


def test_what_is_in_the_csv_is_not_run_again(rows: ModuleType) -> None:
    wanted = rows.runs()
    assert len({run.key() for run in wanted}) == len(wanted)
    rows.keep(wanted[0], {"kl": 0.5, "ppl": 2.0})
    rows.keep(wanted[-1], {"kl": 0.25})
    left = list(rows.missing(wanted))
    assert left == wanted[1:-1]
    assert [rows.run_of(row) for row in rows.read_rows()] == [wanted[0], wanted[-1]]
    with pytest.raises(SystemExit, match="no column for colour"):
        rows.keep(wanted[1], {"colour": 1})


def test_a_row_that_is_added_while_rows_run_is_not_run_again(rows: ModuleType) -> None:
    waiting = rows.missing(rows.runs())
    first = next(waiting)
    second = next(run for run in rows.runs() if run != first)
    rows.keep(second, {"kl": 0.5})
    assert next(waiting) != second


def test_the_committed_rows_have_todays_columns() -> None:
    import quality_rows

    first = quality_rows.CSV.read_text().splitlines()[0]
    assert tuple(first.split(",")) == quality_rows.COLUMNS
    known = set(map(str, range(2, 9)))
    assert all(quality_rows.run_of(row).scheme[1] in known for row in quality_rows.read_rows())


def test_questions_and_answers_become_prose_and_text_stays(tmp_path: Path) -> None:
    from quality_texts import as_text, fingerprint

    file = tmp_path / "qa.json"
    file.write_text(json.dumps([{"question": "Who?", "answer": "Ann."}, {"question": "Where?", "answer": "Here."}]))
    (tmp_path / "out").mkdir()
    text = as_text(file, tmp_path / "out")
    assert text.read_text() == "Who? Ann.\n\nWhere? Here.\n"
    assert as_text(text, tmp_path) == text
    before = fingerprint(text)
    text.write_text("other")
    assert before.startswith("qa ")
    assert fingerprint(text) != before


def measured(rows: ModuleType, preset: str, options: dict, kl: float, bits: float) -> None:
    """Adds a made-up row."""
    facts = dict.fromkeys(("seconds", "cpu_seconds"), 120.0) | {"kl": kl, "ppl": 30.0, "ppl_original": 29.0}
    facts |= {"bits_per_weight": bits, "peak_memory": 2**30, "steps": 7, "other_kl": kl / 2, "other_ppl": 20.0}
    rows.keep(rows.Run("smollm2", "W3A16g64", preset, options, "wikitext2-valid", 128), facts | {"other_text": "x 1"})


def test_tables_and_plot_have_a_series_for_each_method(rows: ModuleType, tmp_path: Path) -> None:
    from quality_report import draw, table

    measured(rows, "gptq", {}, 0.5, 3.25)
    measured(rows, "auto-round", {"iters": 20, "batch_size": 4}, 0.4, 3.25)
    measured(rows, "auto-round", {"iters": 200, "batch_size": 4}, 0.25, 3.25)
    measured(rows, "hqq", {}, 0.75, 3.5)
    measured(rows, "omniquant", {"epochs": 1}, 0.9, 3.25)
    shown = table(rows.read_rows())
    assert "| gptq | 0.500 (30.0) |" in shown
    assert "| auto-round 20 | 0.400 (30.0) |" in shown
    assert "| auto-round 200 | 0.125 (20.0) |" in shown
    assert "| hqq | 0.750 (30.0) at 3.50 bits |" in shown
    assert "| auto-round 20 | 2.0, 2.0, 1.0, 7 |" in shown
    assert '- smollm2 W3A16g64 omniquant {"epochs": 1}, 128 samples: KL 0.900' in shown
    assert shown.index("| auto-round 20 |") < shown.index("| auto-round 200 |")
    pytest.importorskip("matplotlib")
    draw(rows.read_rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_piece_left_out_is_shown_beside_the_whole(rows: ModuleType) -> None:
    from quality_report import table

    measured(rows, "default", {}, 0.25, 3.25)
    measured(rows, "default", rows.PIECES["learned rounding"], 0.4, 3.25)
    shown = table(rows.read_rows())
    assert "| smollm2 W3A16g64 | learned rounding | 0.4000 | +60.0% | 2.0, 2.0, 1.0, 7 |" in shown
    assert "| smollm2 W3A16g64 | nothing | 0.2500 | +0.0% |" in shown


def test_every_piece_that_is_left_out_is_an_option_of_the_preset(rows: ModuleType) -> None:
    from omniq.calibrate.method import METHODS

    usual = vars(METHODS["default"]())
    for options in rows.PIECES.values():
        assert all(usual[name] != value for name, value in options.items())


def test_a_peer_that_cannot_be_run_is_left_out_with_the_reason(tmp_path: Path) -> None:
    from quality import refused
    from quality_rows import Run

    hqq = Run("smollm2", "W3A16g64", "hqq")
    assert "--peers" in refused(hqq, None)
    assert "peers/install.py" in refused(hqq, tmp_path)
    python = tmp_path / "hqq" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert "zero points of its own" in refused(hqq, tmp_path)
    assert refused(Run("smollm2", "W3A16g64-asym", "hqq"), tmp_path) is None


def test_every_peer_says_what_it_needs_with_pinned_versions() -> None:
    from peers.registry import PEERS, module
    from quality_rows import PEERS as listed

    assert {name for name, _ in listed} == set(PEERS)
    for name in PEERS:
        found = module(name)
        assert all("==" in one for one in found.REQUIRES), name
        assert {package.split("==")[0] for package in found.REQUIRES} >= set(found.NAMES[:1]), name
