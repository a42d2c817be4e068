"""Statistics of an audit: numbers against hand-computed values and against scipy, intervals against theory."""

from __future__ import annotations

import numpy as np
import pytest

from omniq.audit.statistics import COMBINE, bootstrap_p, counts, holm, interval, ks_p, mcnemar_p, normal_tail

RNG = np.random.default_rng(0)


def test_numbers_of_items_are_those_computed_by_hand() -> None:
    values = np.array([0.5, 0.25, 1.0])
    assert COMBINE["mean"].value(values, None) == pytest.approx(1.75 / 3)
    assert COMBINE["exp"].value(np.log([2.0, 8.0]), None) == pytest.approx(4.0)
    assert COMBINE["harmonic"].value(values, None) == pytest.approx(3 / 7)
    assert COMBINE["harmonic"].value(np.array([0.5, 0.0]), None) == 0.0
    assert COMBINE["auc"].value(np.array([1.0, 2.0]), np.array([2.0, 3.0, 0.0])) == pytest.approx(3.5 / 6)
    assert COMBINE["ks"].value(np.array([1.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(0.5)


def test_auc_is_one_where_every_reference_is_greater_and_half_where_all_are_equal() -> None:
    assert COMBINE["auc"].value(np.zeros(3), np.ones(4)) == 1.0
    assert COMBINE["auc"].value(np.ones(3), np.ones(4)) == 0.5


@pytest.mark.parametrize("sizes", [(1, 1), (5, 7), (40, 40), (40, 37), (120, 300)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 6.0])
def test_the_ks_test_agrees_with_scipy(sizes: tuple[int, int], shift: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    ours, theirs = RNG.normal(size=sizes[0]).round(1), (RNG.normal(size=sizes[1]) + shift).round(1)
    known = stats.ks_2samp(ours, theirs)
    assert COMBINE["ks"].value(ours, theirs) == pytest.approx(known.statistic, abs=1e-12)
    assert ks_p(ours, theirs) == pytest.approx(known.pvalue, rel=1e-9)


def test_a_p_value_far_below_rounding_is_exact() -> None:
    # All orders are equally likely, and 2 of C(800, 400) put every value on one side.
    exact = 2 * np.exp(2 * np.log(np.arange(1, 401)).sum() - np.log(np.arange(1, 801)).sum())
    assert ks_p(np.zeros(400), np.ones(400)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("name", ["mean", "exp", "harmonic", "auc", "ks"])
def test_resampled_numbers_are_the_numbers_of_the_resampled_items(name: str) -> None:
    values, reference = RNG.random((3, 9)).round(1), RNG.random(6).round(1)
    values[2, 4] = 0.0
    other = reference if name in ("auc", "ks") else None
    drawn = COMBINE[name].resampled(values, other, 40, 7)
    first, second = (np.concatenate(list(counts(n, 40, 7, stream))).astype(int) for n, stream in ((9, 0), (6, 1)))
    for row, numbers in zip(values, drawn, strict=True):
        again = [
            COMBINE[name].value(np.repeat(row, mine), None if other is None else np.repeat(other, its))
            for mine, its in zip(first, second, strict=True)
        ]
        assert numbers == pytest.approx(again)


def test_every_resample_has_as_many_items_as_there_are_and_blocks_do_not_repeat() -> None:
    first, second = list(counts(50, 2000, 1))
    assert (first.sum(1) == 50).all()
    assert (second.sum(1) == 50).all()
    assert not np.array_equal(first, second)
    assert np.array_equal(first, next(counts(50, 2000, 1)))


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = RNG.normal(size=400)
    low, high = interval(COMBINE["mean"].resampled(values[None], None, 10_000, 0)[0])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)
    assert low < values.mean() < high


def test_the_interval_of_an_auc_is_as_wide_as_theory_says() -> None:
    # Hanley and McNeil (1982) for two normal groups.
    values, reference = RNG.normal(size=200), RNG.normal(size=200) + 1
    area = COMBINE["auc"].value(values, reference)
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 199 * (q1 - area**2) + 199 * (q2 - area**2)) / 200**2)
    low, high = interval(COMBINE["auc"].resampled(values[None], reference, 4000, 0)[0])
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_numbers_without_a_meaning_under_resampling_have_no_interval() -> None:
    assert {name for name, combine in COMBINE.items() if combine.resampled is None} == {"ks_p", "single"}


@pytest.mark.parametrize(
    ("up", "down", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 3, 1.0), (1, 7, 18 / 256)]
)
def test_mcnemar_counts_the_coin_tosses(up: int, down: int, p: float) -> None:
    assert mcnemar_p(up, down) == pytest.approx(p)


def test_mcnemar_agrees_with_scipys_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for up, down in ((12, 3), (100, 160), (1, 0)):
        assert mcnemar_p(up, down) == pytest.approx(stats.binomtest(up, up + down).pvalue)


def test_a_bootstrap_p_value_counts_the_smaller_tail_twice() -> None:
    assert bootstrap_p(np.array([1.0] * 95 + [-1.0] * 4)) == pytest.approx(0.1)
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(10)) == 1.0


def test_holm_multiplies_by_what_is_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_the_normal_tail_is_that_of_tables() -> None:
    assert normal_tail(1.959964) == pytest.approx(0.025, abs=1e-7)


def test_two_groups_are_resampled_independently_of_each_other() -> None:
    first, second = (np.concatenate(list(counts(400, 300, 5, stream))) for stream in (0, 1))
    together = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(together) < 5 / np.sqrt(first.size)
