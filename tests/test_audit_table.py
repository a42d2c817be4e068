"""From measurements to rows: every column by hand, only shared items compared, nothing that is not a number on disk."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from audit_measured import METRICS, SETTINGS, area, models_of, shares

from omniq.audit.base import Measurement, Metric, Missing
from omniq.audit.result import Absent, Result, Verdict
from omniq.audit.statistics import mcnemar_p
from omniq.audit.store import (
    found_from_dict,
    found_to_dict,
    plain,
    read_result,
    result_to_dict,
    write_csv,
    write_result,
)
from omniq.audit.table import tabulated
from omniq.errors import DataError

ROLES = ("orig_fp", "never_fp", "orig_q", "unl_fp", "unl_q")
RATES = dict(zip(ROLES, (0.95, 0.10, 0.90, 0.20, 0.60), strict=True))


def table(rates: dict[str, float], metric: str = "contains", split: str = "forget", n: int = 40, **changes):
    """Rows by name of one metric of an audit that measures nothing else."""
    measured = {name: {"qa_gen": [shares(metric, split, rate, n)]} for name, rate in rates.items()}
    for name, one in changes.items():
        measured[name]["qa_gen"] = [one]
    rows, absent, items = tabulated(measured, models_of(*rates), SETTINGS, "run")
    return {row.name: row for row in rows}, absent, items


def test_differences_and_shares_are_those_computed_by_hand() -> None:
    rows, _, _ = table(RATES)
    row = rows["unl_q"]
    assert row.value == pytest.approx(0.60)
    assert row.n == 40
    assert row.delta_vs_unl_fp == pytest.approx(0.40)
    assert row.delta_vs_orig_fp == pytest.approx(-0.35)
    assert row.delta_vs_orig_q == pytest.approx(-0.30)
    assert row.delta_vs_never == pytest.approx(0.50)
    assert row.recovered_share == pytest.approx(0.40 / 0.70)
    assert row.did == pytest.approx(0.40 + 0.05)
    assert row.retained_share == pytest.approx(0.50 / 0.80)
    assert (row.items_up, row.items_down) == (16, 0)
    assert row.p_value == pytest.approx(mcnemar_p(16, 0))
    assert row.recovered_share_lo < row.recovered_share < row.recovered_share_hi


def test_a_model_is_not_compared_with_itself_and_the_effect_is_measured_from_the_original() -> None:
    rows, _, _ = table(RATES)
    assert rows["orig_fp"].delta_vs_orig_fp is None
    assert rows["orig_fp"].p_value is None
    assert rows["unl_fp"].delta_vs_unl_fp is None
    assert rows["unl_fp"].items_down == 30
    assert rows["unl_fp"].retained_share == pytest.approx(0.10 / 0.85)
    assert rows["unl_fp"].recovered_share is None
    assert rows["unl_fp"].did is None


def test_two_models_alone_are_compared() -> None:
    rows, _, _ = table({"orig_fp": 0.9, "orig_q": 0.6}, split="world")
    row = rows["orig_q"]
    assert row.delta_vs_orig_fp == pytest.approx(-0.3)
    assert row.items_down == 12
    assert row.delta_vs_unl_fp is None
    assert row.delta_vs_orig_q is None
    assert row.retained_share == pytest.approx(0.6 / 0.9)


def test_a_share_of_next_to_nothing_is_not_given() -> None:
    close, _, _ = table({**RATES, "orig_q": 0.225})
    assert close["unl_q"].recovered_share is None
    assert close["unl_q"].did is not None
    unsure, _, _ = table({**RATES, "orig_q": 0.3}, n=10)
    assert unsure["unl_q"].recovered_share is None


def test_only_items_that_both_models_have_are_compared() -> None:
    whole = shares("contains", "forget", 0.2, 40)
    values = np.ones(30)
    part = Measurement(METRICS["contains"], "forget", tuple(reversed(whole.items[:30])), values, excluded=10)
    rows, _, _ = table(RATES, unl_q=part)
    known = whole.values[:30].mean()
    assert rows["unl_q"].n == 30
    assert rows["unl_q"].n_excluded == 10
    assert rows["unl_q"].delta_vs_unl_fp == pytest.approx(1 - known)
    assert rows["unl_q"].items_up == 30 * (1 - known)
    apart = replace(part, items=tuple(f"other-{i}" for i in range(30)))
    rows, _, _ = table(RATES, unl_q=apart)
    assert rows["unl_q"].delta_vs_unl_fp is None
    assert rows["unl_q"].p_value is None


def test_pairing_makes_a_difference_sharper_than_its_parts() -> None:
    rows, _, _ = table({"orig_fp": 0.5, "orig_q": 0.45}, n=200)
    row = rows["orig_q"]
    assert row.delta_vs_orig_fp_hi - row.delta_vs_orig_fp_lo < 0.6 * (row.ci_hi - row.ci_lo)


def test_a_number_that_two_groups_make_gets_an_interval_and_differences() -> None:
    measured = {name: {"privacy": [area("mia_mink40", "forget", rate)]} for name, rate in RATES.items()}
    rows = {row.name: row for row in tabulated(measured, models_of(*ROLES), SETTINGS, "run")[0]}
    row = rows["unl_q"]
    assert row.ci_lo < row.value < row.ci_hi
    assert row.value == pytest.approx(0.6, abs=0.02)
    assert row.delta_vs_unl_fp_lo > 0.2


@pytest.mark.parametrize(("value", "gate"), [(0.95, "ok"), (0.13, "floor")])
def test_the_gate_is_the_floor_where_even_the_original_guesses(value: float, gate: str) -> None:
    rows, _, _ = table({**RATES, "orig_fp": value}, "mc_acc")
    assert {row.gate for row in rows.values()} == {gate}


def test_a_holdout_at_chance_and_a_gate_of_the_evaluator_stay_as_they_are() -> None:
    rows, _, _ = table(dict.fromkeys(ROLES, 0.12), "mc_acc", "holdout")
    assert {row.gate for row in rows.values()} == {"ok"}
    gated = shares("contains", "forget", 0.2, 40, gate="no_capability")
    rows, _, _ = table(RATES, unl_q=gated)
    assert rows["unl_q"].gate == "no_capability"
    assert rows["unl_fp"].gate == "ok"


def test_all_rows_of_a_model_that_lost_half_of_what_it_should_keep_are_collapsed() -> None:
    kept = {"orig_fp": 0.97, "unl_fp": 0.05}
    measured = {
        name: {"qa_gen": [shares("contains", "retain", rate)], "qa_ll": [shares("prob", "forget", rate)]}
        for name, rate in kept.items()
    }
    rows, _, _ = tabulated(measured, models_of(*kept), SETTINGS, "run")
    assert {(row.name, row.gate) for row in rows} == {("orig_fp", "ok"), ("unl_fp", "collapsed")}
    assert all("0.05, the original's 0.97" in row.note for row in rows if row.name == "unl_fp")


def test_missing_metrics_are_absent_and_never_zero() -> None:
    measured = {"orig_fp": {"ks": [Missing("ks", "forget", "needs a model that was never trained")]}}
    rows, absent, _ = tabulated(measured, models_of("orig_fp"), SETTINGS, "run")
    assert rows == ()
    assert absent == (Absent("orig_fp", "ks", "ks", "forget", "needs a model that was never trained"),)


def test_values_of_items_come_with_what_was_written_but_not_for_every_layer() -> None:
    one = shares("contains", "forget", 1.0, 2, texts=("Paris", "Rome"))
    deep = replace(one, layer=3)
    _, _, items = tabulated({"orig_fp": {"qa_gen": [one, deep]}}, models_of("orig_fp"), SETTINGS, "run")
    assert [(item.item, item.value, item.text) for item in items] == [
        ("forget-0", 1.0, "Paris"),
        ("forget-1", 1.0, "Rome"),
    ]


def test_hundreds_of_rows_are_those_of_one_row_at_a_time() -> None:
    measured = {
        name: {"probe": [replace(shares("probe_r2f", "forget", rate), layer=layer) for layer in range(70)]}
        for name, rate in RATES.items()
    }
    rows, _, _ = tabulated(measured, models_of(*ROLES), SETTINGS, "run")
    alone = {name: {"probe": found["probe"][69:]} for name, found in measured.items()}
    assert rows[-5:] == tabulated(alone, models_of(*ROLES), SETTINGS, "run")[0]
    assert len(rows) == 350


def test_rows_on_disk_keep_every_digit_and_leave_what_is_missing_empty(tmp_path: Path) -> None:
    rows, _, _ = table(RATES)
    write_csv(list(rows.values()), tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = {row["name"]: row for row in csv.DictReader(file)}
    assert float(read["unl_q"]["recovered_share"]) == rows["unl_q"].recovered_share
    assert read["orig_fp"]["delta_vs_orig_fp"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def a_result() -> Result:
    rows, absent, items = table(RATES)
    verdict = Verdict(
        "unl_q", "SUPPRESSED", ("STABLE",), "UNKNOWN", "A sentence.", ("one",), ("qa_gen.contains@forget",)
    )
    facts = {"seconds": float("nan"), "share": np.float32(0.5), "place": Path("a/b"), "list": [1, 2]}
    models = models_of(*ROLES)
    questions = {"forget-0": {"question": "Café?"}}
    return Result("run", models, tuple(rows.values()), absent, items, (verdict,), questions, facts, ("note",))


def test_a_result_survives_the_disk(tmp_path: Path) -> None:
    result = a_result()
    write_result(result, tmp_path / "result.json")
    again = read_result(tmp_path / "result.json")
    assert again == replace(result, facts={"seconds": None, "share": 0.5, "place": "a/b", "list": [1, 2]})
    assert "NaN" not in (tmp_path / "result.json").read_text()


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 99}'])
def test_a_file_that_is_no_result_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        read_result(tmp_path / "result.json")


def test_a_result_with_a_row_of_another_shape_is_refused(tmp_path: Path) -> None:
    values = result_to_dict(a_result())
    values["rows"]["rows"][0].pop()
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="damaged"):
        read_result(tmp_path / "result.json")


def test_measurements_survive_the_disk() -> None:
    one = shares("contains", "forget", 1 / 3, 3, texts=("a", "b", "c"), note="why", layer=2, attribute="city")
    found = [area("mia_mink40", "forget", 0.7), one, Missing("ks", "forget", "no")]
    again = found_from_dict(json.loads(json.dumps(found_to_dict(found), allow_nan=False)))
    assert again[2] == found[2]
    for old, new in zip(found[:2], again[:2], strict=True):
        assert np.array_equal(old.values, new.values)
        assert old.key == new.key
        assert old.metric == new.metric
        assert (old.items, old.texts, old.note, old.gate, old.chance) == (
            new.items, new.texts, new.note, new.gate, new.chance
        )  # fmt: skip
    assert np.array_equal(found[0].reference, again[0].reference)
    assert again[1].reference is None


def broken(change) -> dict:
    """A stored measurement with something changed."""
    stored = found_to_dict([shares("contains", "forget", 0.5, 4)])
    change(stored, stored["found"][0])
    return stored


@pytest.mark.parametrize(
    "change",
    [
        lambda stored, one: stored.update(schema=0),
        lambda stored, one: one["values"].pop(),
        lambda stored, one: one.update(values=[1.0, None, 2.0, 3.0]),
        lambda stored, one: one.update(texts=["a"]),
        lambda stored, one: one.pop("metric"),
        lambda stored, one: one.update(surprise=1),
        lambda stored, one: one["metric"].update(surprise=1),
    ],
)
def test_a_damaged_measurement_is_measured_again(change) -> None:
    assert found_from_dict(broken(change)) is None


def test_a_value_that_is_not_finite_is_not_stored() -> None:
    one = Measurement(Metric("x", ""), "forget", ("a",), np.array([np.inf]))
    with pytest.raises(ValueError, match="x on forget"):
        found_to_dict([one])


def test_plain_values_are_those_of_json() -> None:
    assert plain({1: (np.int64(2), np.True_, float("inf"), None, "x")}) == {"1": [2, True, None, None, "x"]}
