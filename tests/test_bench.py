"""omniq bench: what its figures mean, worked out by hand from an injected clock; then tiny runs of the whole of it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from doubles import FakeClock
from torch import Tensor

from omniq.bench import entrants, facts, kernels, limits, roofline, samples
from omniq.bench.entrants import Entrant, Refused
from omniq.bench.kernels import Sweep, cell_results, results
from omniq.bench.results import COLUMNS, Cell, Limit, Result, measured
from omniq.bench.samples import Timing, host_runner, interleaved, timing
from omniq.bench.shapes import DEFAULT, SHAPES, chosen_shapes, shape_named
from omniq.errors import OutputError, UnsupportedError, UsageError
from omniq.kernels.dispatch import KERNELS
from omniq.spec import LinearSpec

CPU = torch.device("cpu")
CELL = Cell(LinearSpec.parse("W4A16g32"), 48, 64, 2, "float32", "cpu", "out")


@pytest.fixture(autouse=True)
def _small_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small products and a small cache, so that a run takes no time; the number of threads is put back."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(limits, "PRODUCT", {"cpu": (32, 64, 64)})
    monkeypatch.setattr(kernels, "last_level_cache", lambda device: 2**16)
    monkeypatch.setattr(samples, "SAMPLE_SECONDS", 1e-5)
    yield
    torch.set_num_threads(threads)


# Arithmetic --------------------------------------------------------------------------------------------------------


def test_rates_and_fractions_are_those_worked_out_by_hand() -> None:
    cell = Cell(LinearSpec.parse("W4A16g128"), 4096, 1024, 2, "bfloat16", "cpu", "out")
    # 2 * 2 * 4096 * 1024 = 16,777,216 operations in 4 ms; 8 MB in 4 ms. Memory at 4 GB/s allows 2 ms, products at
    # 16,777,216,000 a second allow 1 ms.
    limit = Limit(bandwidth=4e9, rate=16_777_216_000)
    row = measured(cell, "k", "bfloat16", 8_000_000, Timing(4e-3, 0.1, 5), limit, {"torch float32": 6e-3})
    assert row.gbps == pytest.approx(2.0)
    assert row.tflops == pytest.approx(0.004194304)
    assert (row.fraction, row.bound) == (pytest.approx(0.5), "memory")
    assert (row.limit_gbps, row.limit_tflops) == (pytest.approx(4.0), pytest.approx(0.016777216))
    assert (row.vs_float32, row.vs_bfloat16, row.vs_int4) == (pytest.approx(1.5), None, None)
    assert row.intensity == pytest.approx(2.097152)


def test_a_cell_with_more_work_than_bytes_is_bound_by_products() -> None:
    row = measured(CELL, "k", "float32", 1, Timing(1.0, 0.0, 3), Limit(1e9, CELL.operations * 4), {})
    assert (row.fraction, row.bound) == (pytest.approx(0.25), "products")


def test_a_timing_is_the_median_and_the_distance_of_the_quartiles() -> None:
    assert timing([1.0, 2.0, 4.0, 5.0, 9.0]) == Timing(4.0, (5.0 - 2.0) / 4.0, 5)


def test_int8_products_are_the_limit_of_those_who_round_their_input_alone() -> None:
    rates = {"float32": 1.0, "bfloat16": 4.0, "int8": 8.0}
    assert limits.roof(rates, integer=False) == 4.0
    assert limits.roof(rates, integer=True) == 8.0


def test_memory_is_as_fast_as_the_faster_way_to_use_it() -> None:
    timings = {"read": Timing(2.0, 0, 3), "copy": Timing(5.0, 0, 3), "other": Timing(1e-9, 0, 3)}
    assert limits.bandwidth(timings, {"read": 100, "copy": 200}) == 50.0


def test_a_copy_counts_what_it_reads_and_what_it_writes() -> None:
    calls = limits.memory_calls(1600, CPU)
    assert {name: nbytes for name, (_, nbytes) in calls.items()} == {"read": 1600, "copy": 1600}
    assert calls["read"][0][0]().item() == 200


@pytest.mark.parametrize(("text", "nbytes"), [("32768K\n", 2**25), ("32M", 2**25), ("512", 512)])
def test_the_size_of_a_cache_is_read_as_the_system_writes_it(text: str, nbytes: int, tmp_path: Path) -> None:
    for index, content in enumerate(("48K", text)):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(content)
    assert limits.last_level_cache(CPU, tmp_path) == max(nbytes, 48 * 1024)
    assert limits.last_level_cache(CPU, tmp_path / "nowhere") == limits.USUAL_CACHE


# Taking times ------------------------------------------------------------------------------------------------------


def test_samples_are_taken_in_turns_until_the_time_is_up() -> None:
    order: list[str] = []

    def taking(name: str, seconds: float) -> samples.Runner:
        def run(count: int) -> float:
            order.append(name)
            return seconds * count

        return run

    found = interleaved({"slow": taking("slow", 0.5), "quick": taking("quick", 0.25)}, 3.0)
    assert order == ["slow"] * 2 + ["quick"] * 2 + ["slow", "quick"] * 4  # two to warm up, then 4 rounds of 0.75 s
    assert found == {"slow": Timing(0.5, 0.0, 4), "quick": Timing(0.25, 0.0, 4)}


def test_a_quick_call_is_made_many_times_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "SAMPLE_SECONDS", 1e-3)
    assert samples.calls_per_sample(lambda count: 1e-5 * count) == 100
    assert samples.calls_per_sample(lambda count: 1.0) == 1
    assert samples.calls_per_sample(lambda count: 0.0) == samples.MOST_CALLS


def test_weights_are_gone_through_in_turn_and_the_call_that_warms_up_is_not_counted() -> None:
    clock, used = FakeClock(), []

    def use(index: int) -> None:
        used.append(index)
        clock.now += 1.0

    calls = [lambda index=index: use(index) for index in range(3)]
    cold = host_runner(calls, clock, warm=False)
    assert (cold(2), cold(2), used) == (2.0, 2.0, [0, 1, 2, 0])
    used.clear()
    warm = host_runner(calls[:1], clock, warm=True)
    assert (warm(2), used) == (2.0, [0, 0, 0])


def test_time_of_the_processors_is_shared_by_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", lambda: 6.0)
    assert samples.clock_named("cpu", 3)() == 2.0
    with pytest.raises(UsageError, match="--clock is 'sun'"):
        samples.clock_named("sun", 1)


# One cell ----------------------------------------------------------------------------------------------------------


def entrant(name: str, multiply: Callable[..., object], integer: bool = False) -> Entrant:
    return Entrant(name, ("first", "second"), 1000, torch.float32, integer, multiply)


def test_a_cell_tells_every_speed_from_the_clock_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(kernels, "memory_calls", lambda nbytes, device: {"read": ([clock.taking(1e-3)], 10**6)})
    taking_part = [
        entrant("quick", clock.taking(2e-3), integer=True),
        entrant("torch float32", clock.taking(6e-3)),
        entrant("torch int4", clock.taking(4e-3)),
        Refused("shy", "needs K divisible by 1000"),
    ]
    rows = cell_results(CELL, taking_part, {"float32": 1e6, "int8": 1e7}, 10**6, Sweep(), clock)
    quick, dense, int4, shy = rows
    nbytes = 1000 + 4 * 2 * 64 + 4 * 2 * 48
    assert quick.nbytes == nbytes
    assert quick.seconds == pytest.approx(2e-3)
    assert quick.gbps == pytest.approx(nbytes / 2e-3 / 1e9)
    assert quick.tflops == pytest.approx(2 * 2 * 48 * 64 / 2e-3 / 1e12)
    assert quick.limit_gbps == pytest.approx(1.0)
    assert (quick.limit_tflops, dense.limit_tflops) == (pytest.approx(1e-5), pytest.approx(1e-6))
    assert (quick.vs_float32, quick.vs_int4, quick.vs_bfloat16) == (pytest.approx(3.0), pytest.approx(2.0), None)
    assert (dense.vs_float32, int4.vs_float32) == (pytest.approx(1.0), pytest.approx(1.5))
    assert (shy.seconds, shy.reason) == (None, "needs K divisible by 1000")


def test_a_kernel_that_refuses_its_input_gives_the_reason_instead_of_a_time() -> None:
    def fussy(x: Tensor, weight: object) -> Tensor:
        raise UnsupportedError("takes float16 only")

    (row,) = cell_results(CELL, [entrant("fussy", fussy)], {"float32": 1.0}, 64, Sweep(), FakeClock())
    assert (row.kernel, row.reason, row.seconds) == ("fussy", "takes float16 only", None)


@pytest.mark.parametrize(("cache", "used"), [("in", {"first"}), ("out", {"first", "second"})])
def test_one_weight_is_used_in_the_cache_and_all_of_them_out_of_it(cache: str, used: set[str]) -> None:
    found = []
    cell = Cell(CELL.spec, 48, 64, 1, "float32", "cpu", cache)
    cell_results(cell, [entrant("k", lambda x, w: found.append(w))], {"float32": 1.0}, 64, Sweep(seconds=0.0), CLOCK)
    assert set(found[1:]) == used


CLOCK = samples.clock_named("wall", 1)


# Who takes part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("footprint", [0, 10**5])
def test_the_copies_of_a_weight_fill_the_footprint_and_share_no_memory(footprint: int) -> None:
    weight = {"a": torch.ones(1000), "b": torch.ones(10, dtype=torch.uint8)}
    made = entrants.copies(weight, CPU, footprint)
    assert len(made) == max(1, math.ceil(footprint / 4010))
    assert len({each["a"].data_ptr() for each in made}) == len(made)
    assert all(torch.equal(each["a"], weight["a"]) for each in made)


@pytest.mark.parametrize("scheme", ["W4A16g32", "W4A16g64-asym"])
def test_torchs_own_ways_multiply_by_the_same_weight(scheme: str) -> None:
    spec = LinearSpec.parse(scheme)
    q = entrants.random_qtensor(spec.weight, (48, 64), torch.bfloat16)
    found = entrants.entrants(("reference",), spec, (48, 64), torch.bfloat16, CPU, 0)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = x.double() @ q.dequantize(torch.float64).T
    for each in found:
        assert isinstance(each, Entrant)
        y = each.calls(x.to(each.dtype), 1)[0]()
        # bfloat16 keeps 8 bits of every product's factors, of zero points times scales, and of the result.
        assert (y.double() - exact).abs().max() < 2**-6 * (x.double().abs() @ q.dequantize(torch.float64).abs().T).max()


@pytest.mark.parametrize(
    ("scheme", "shape", "said"),
    [
        ("W3A16g32", (48, 64), "4-bit weights"),
        ("W4A8g32", (48, 64), "floating-point activations"),
        ("W4A16", (48, 96), "groups of 32, 64"),
        ("W4A16g32", (40, 64), "divisible by 16"),
    ],
)
def test_torchs_4_bit_operator_says_what_it_does_not_take(scheme: str, shape: tuple[int, int], said: str) -> None:
    spec = LinearSpec.parse(scheme)
    assert said in entrants.int4_refusal(spec, shape, CPU)
    found = entrants.entrants((), spec, shape, torch.float32, CPU, 0)
    assert [each.name for each in found if isinstance(each, Refused)] == ["torch int4"]


def test_a_group_that_does_not_fit_the_layer_is_the_reason_of_every_kernel() -> None:
    spec = LinearSpec.parse("W4A16g64")
    found = entrants.entrants(("reference", "torch_dequant"), spec, (48, 96), torch.float32, CPU, 0)
    assert [each.name for each in found] == ["reference", "torch_dequant"]
    assert all("not a multiple of group size 64" in each.reason for each in found)


# Shapes ------------------------------------------------------------------------------------------------------------


def test_shapes_come_from_their_own_words_and_from_models_each_once() -> None:
    assert chosen_shapes([], []) == DEFAULT
    assert chosen_shapes(["576x576", "8x16"], ["smollm2-135m"]) == ((576, 576), (8, 16), *SHAPES["smollm2-135m"][1:])
    for text in ("576", "0x5", "axb", "5x-1", "5x6x7"):
        with pytest.raises(UsageError, match="is not a shape"):
            shape_named(text)
    with pytest.raises(UsageError, match="known: smollm2-135m"):
        chosen_shapes([], ["gpt-9"])


# The sweep, for real -----------------------------------------------------------------------------------------------


def test_a_sweep_has_a_row_for_every_kernel_and_every_way_of_torchs_in_every_cell() -> None:
    sweep = Sweep(
        tuple(KERNELS),
        (LinearSpec.parse("W4A16g32"), LinearSpec.parse("W2A8")),
        ((48, 64),),
        rows=(1, 3),
        seconds=0.0,
        caches=("in", "out"),
    )
    cells = list(results(sweep))
    assert len(cells) == sweep.count() == 8
    for rows in cells:
        assert [row.kernel for row in rows] == [*KERNELS, "torch float32", "torch bfloat16", "torch int4"]
        for row in rows:
            assert bool(row.reason) == (row.seconds is None)
            if not row.reason:
                figures = (row.seconds, row.gbps, row.tflops, row.fraction, row.vs_float32, row.limit_gbps)
                assert min(figures) > 0
                assert row.samples >= samples.MIN_ROUNDS


def test_the_reference_takes_part_only_where_it_is_named() -> None:
    assert set(Sweep().names()) == set(KERNELS) - {"reference"}
    assert Sweep(("reference",)).names() == ("reference",)
    with pytest.raises(UsageError, match="did you mean 'reference'"):
        Sweep(("referense",)).names()
    with pytest.raises(UsageError, match="M is 0"):
        Sweep(rows=(1, 0))


# Files -------------------------------------------------------------------------------------------------------------


def test_rows_are_added_to_a_file_of_the_same_columns_and_to_no_other(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    for value in (1, 2):
        facts.check_csv(file, ["a", "b"])
        facts.append_rows(file, [{"a": value, "b": None}])
    assert file.read_text().splitlines() == ["a,b", "1,", "2,"]
    with pytest.raises(OutputError, match="other columns"):
        facts.check_csv(file, ["a", "c"])
    with pytest.raises(OutputError, match="folder does not exist"):
        facts.check_csv(tmp_path / "no" / "rows.csv", ["a"])


def test_the_commit_is_empty_where_there_are_no_sources(tmp_path: Path) -> None:
    assert facts.commit(tmp_path) == ""


def test_a_plot_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "find_spec", lambda name: object())
    with pytest.raises(OutputError, match=r"\.png, \.svg, \.pdf"):
        roofline.check_plot(tmp_path / "plot.txt")
    with pytest.raises(OutputError, match="folder does not exist"):
        roofline.check_plot(tmp_path / "no" / "plot.png")
    monkeypatch.setattr(roofline, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'omniq\[plot\]'"):
        roofline.check_plot(tmp_path / "plot.png")


def test_a_roof_is_the_slope_of_memory_and_then_the_rate_of_products() -> None:
    assert roofline.allowed(10, gbps=100, tflops=2) == pytest.approx(1.0)
    assert roofline.allowed(1000, gbps=100, tflops=2) == 2
    rows = [
        Result("k", "s", 1, 1, 1, "d", "cpu", cache, limit_gbps=gbps, limit_tflops=tflops)
        for cache, gbps, tflops in (("in", 90, 1), ("in", 100, 1), ("out", 30, 1), ("out", 20, 2))
    ]
    found = {"in cache": [(100, 1)], "out of cache": [(30, 1), (30, 2)]}
    assert list(roofline.roofs(rows).values()) == found["in cache"] + found["out of cache"]


# The command line --------------------------------------------------------------------------------------------------


TINY = ("--shape", "48x64", "--scheme", "W4A16g32", "-M", "2", "--seconds", "0", "--threads", "1")


def test_bench_kernels_prints_a_table_and_writes_the_same_rows_to_a_file(omniq, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    code, out, err = omniq("bench", "kernels", *TINY, "--cache", "both", "--csv", str(file))
    assert code == 0, err
    assert "W4A16g32, 48x64, M = 2, in the cache" in out
    with file.open(newline="") as stored:
        rows = list(csv.DictReader(stored))
    assert list(rows[0]) == [*COLUMNS, *facts.facts(CPU, "wall")]
    assert {row["kernel"] for row in rows} >= {"torch_dequant", "torch float32", "torch int4"}
    assert {row["cache"] for row in rows} == {"in", "out"}
    assert all(row["torch"] == torch.__version__ and row["threads"] == "1" and row["machine"] for row in rows)
    assert all(row["kernel"] in out for row in rows)


def test_bench_kernels_lists_who_did_not_run_and_why(omniq) -> None:
    words = ("bench", "kernels", "--kernel", "torch_dequant", "--scheme", "W4A16", "--shape", "48x96", *TINY[4:])
    code, out, err = omniq(*words)
    assert code == 0, err
    assert "Did not run" in out
    assert "it takes groups of 32, 64, 128, 256 only" in out
    found = json.loads(omniq(*words, "--json")[1])
    assert {row["kernel"]: row["reason"] for row in found["rows"]}["torch int4"].startswith("it takes groups")
    assert found["machine"]["torch"] == torch.__version__


def test_bench_kernels_draws_a_roofline(omniq, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, _, err = omniq("bench", "kernels", *TINY, "--plot", str(tmp_path / "roof.svg"))
    assert code == 0, err
    assert "<svg" in (tmp_path / "roof.svg").read_text()


def test_bench_names_what_it_measures(omniq) -> None:
    assert all(word in omniq("bench", "--help")[1] for word in ("kernels", "decode"))
    for word, option in (("kernels", "--model-shapes"), ("decode", "--new-tokens")):
        code, out, _ = omniq("bench", word, "--help")
        assert (code, option in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cache", "under"), "--cache is 'under'"),
        (("--clock", "sun"), "--clock is 'sun'"),
        (("--threads", "0"), "--threads is 0"),
        (("--scheme", "W99"), "'W99' is not a scheme"),
        (("--shape", "many"), "'many' is not a shape"),
        (("--kernel", "marlin"), "unknown kernel 'marlin'"),
        (("-M", "0"), "M is 0"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_a_usage_error(omniq, words: tuple[str, ...], said: str) -> None:
    code, _, err = omniq("bench", "kernels", "--shape", "48x64", "--seconds", "0", *words)
    assert code == UsageError.exit_code
    assert said in err
