"""Specs: they print and parse as the schemes people write, and refuse what no kernel could compute."""

from __future__ import annotations

import itertools
from dataclasses import FrozenInstanceError

import pytest

from omniq.errors import UsageError
from omniq.spec import ActSpec, LinearSpec, QuantSpec, act_spec, largest_divisor

ALL = [
    LinearSpec(QuantSpec(bits, group, symmetric), acts)
    for bits, group, symmetric, acts in itertools.product(
        range(2, 9), (-1, 64), (True, False), (None, ActSpec(4), ActSpec(8, symmetric=False))
    )
]

ALL += [
    LinearSpec(QuantSpec(4), acts, transform)
    for acts, transform in itertools.product((None, ActSpec(4), ActSpec(4, clip=0.92)), (None, "had"))
    if transform or (acts and acts.clip != 1)
]


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_a_spec_prints_parses_and_converts_to_itself(spec: LinearSpec) -> None:
    assert LinearSpec.parse(str(spec)) == spec
    assert LinearSpec.from_dict(spec.to_dict()) == spec


def test_different_specs_print_differently() -> None:
    assert len({str(spec) for spec in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("W4A16g128", LinearSpec(QuantSpec(4, 128))),
        ("W3A16", LinearSpec(QuantSpec(3))),
        ("W2A16g64-asym", LinearSpec(QuantSpec(2, 64, symmetric=False))),
        ("W4A4", LinearSpec(QuantSpec(4), ActSpec(4))),
        ("W4A8-actasym", LinearSpec(QuantSpec(4), ActSpec(8, symmetric=False))),
        ("W4A4-had", LinearSpec(QuantSpec(4), ActSpec(4), "had")),
        ("W4A4-clip0.9-had", LinearSpec(QuantSpec(4), ActSpec(4, clip=0.9), "had")),
    ],
)
def test_schemes_mean_what_the_field_means_by_them(text: str, spec: LinearSpec) -> None:
    assert LinearSpec.parse(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize(
    "text", ["", "W4", "4A16", "W4A16g", "W4A16 ", "w4a16", "W4A16g-1", "W4A16-sym", "W4A16g128-actasym-asym"]
)
def test_text_that_is_not_a_scheme_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match="write for example W4A16g128"):
        LinearSpec.parse(text)


@pytest.mark.parametrize("text", ["W1A16", "W9A16", "W16A16", "W4A1", "W4A9", "W4A16g0"])
def test_bits_and_groups_out_of_range_are_refused_with_the_range(text: str) -> None:
    with pytest.raises(UsageError, match=r"between 2 and 8|use 2 to 8|positive number"):
        LinearSpec.parse(text)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"weight": {"bits": 4}},
        {"weight": {"bits": 4, "more": 1}, "input": None},
        {"weight": {"bits": 4}, "input": None, "x": 1},
    ],
)
def test_unknown_and_missing_keys_are_refused(values: dict) -> None:
    with pytest.raises(UsageError, match="is not a linear spec"):
        LinearSpec.from_dict(values)


def test_sixteen_bits_of_activation_mean_no_grid_at_all() -> None:
    assert act_spec(16) is None
    assert act_spec(8, symmetric=False) == ActSpec(8, symmetric=False)


@pytest.mark.parametrize(("group", "width", "groups"), [(-1, 576, 1), (64, 64, 9), (576, 576, 1), (1, 1, 576)])
def test_groups_divide_the_inputs(group: int, width: int, groups: int) -> None:
    spec = QuantSpec(4, group)
    assert spec.width(576) == width
    assert spec.groups(576) == groups


@pytest.mark.parametrize(("features", "hint"), [(576, "16, 32, 48, 64, 96, 192"), (101, "101"), (514, "2")])
def test_a_group_size_that_does_not_divide_names_sizes_that_do(features: int, hint: str) -> None:
    with pytest.raises(
        UsageError, match=f"in_features={features} is not a multiple of group size 128.*such as {hint}$"
    ):
        QuantSpec(4, 128).width(features)


@pytest.mark.parametrize("number", [1, 7, 96, 257, 512, 1022])
def test_the_largest_divisor_divides_and_is_within_the_limit(number: int) -> None:
    best = largest_divisor(number)
    assert number % best == 0
    assert best <= 256
    assert not [d for d in range(best + 1, min(number, 256) + 1) if number % d == 0]


@pytest.mark.parametrize("spec", [QuantSpec(4), ActSpec(4), LinearSpec(QuantSpec(4))])
def test_specs_do_not_change(spec: object) -> None:
    with pytest.raises(FrozenInstanceError):
        spec.bits = 3


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_middle_code_leaves_one_more_step_below_than_above(bits: int) -> None:
    spec = QuantSpec(bits)
    assert spec.mid - (spec.qmax - spec.mid) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("W4A16-clip0.9", "stay in floating point"), ("W4A4-clip0", "above 0"), ("W4A4-clip1.5", "at most 1")],
)
def test_clips_that_mean_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        LinearSpec.parse(text)


def test_a_transform_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="the only one is 'had'"):
        LinearSpec(QuantSpec(4), None, "dct")


def test_the_plain_spec_keeps_the_numbers_and_drops_what_happens_to_the_input() -> None:
    spec = LinearSpec.parse("W4A4g64-asym-actasym-clip0.8-had")
    assert str(spec.plain()) == "W4A4g64-asym-actasym"
    assert spec.plain().plain() == spec.plain()
