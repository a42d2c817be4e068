"""The plan of a run: what it costs on this machine, before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import save_tiny

from omniq import hf
from omniq.calibrate.data import DataSpec
from omniq.calibrate.method import METHODS
from omniq.costs import COSTS, START_SECONDS, cost, sizes
from omniq.footprint import footprint
from omniq.hf import OpenModel
from omniq.planning import plan
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.timing import Cost, rates

UNIT = Cost(1.0, 1.0, 1.0)
WITH_DATA = [name for name in METHODS if METHODS[name].needs_data]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenModel:
    return hf.open_model(save_tiny("llama", tmp_path_factory.mktemp("planning")))


def recipe(preset: str, samples: int = 4, source: str = "self", scheme: str = "W4A16g32", **settings) -> Recipe:
    return Recipe(LinearSpec.parse(scheme), preset=preset, data=DataSpec(source, samples, 16), **settings)


def work(model: OpenModel, wanted: Recipe) -> float:
    """The cost of a run where every kind of work goes at the same rate."""
    return cost(model, sizes(model), wanted).seconds(UNIT)


def test_every_preset_has_a_cost() -> None:
    assert set(COSTS) == set(METHODS)


@pytest.mark.parametrize("preset", WITH_DATA)
def test_more_text_takes_longer_and_text_that_the_model_writes_longest(preset: str, model: OpenModel) -> None:
    little, much = (work(model, recipe(preset, samples, "a.txt")) for samples in (4, 32))
    assert little < much
    assert little < work(model, recipe(preset))


def test_a_preset_without_data_takes_no_longer_with_more_samples(model: OpenModel) -> None:
    assert work(model, recipe("rtn")) == work(model, recipe("rtn", 400))


def test_training_takes_longer_with_epochs_and_transformations_and_less_with_larger_batches(model: OpenModel) -> None:
    one, two = (work(model, recipe("omniquant", options={"epochs": count})) for count in (1, 2))
    assert one < two < work(model, recipe("omniquant", options={"epochs": 2, "let": True}))
    assert work(model, recipe("omniquant", options={"epochs": 2}, batch_size=4)) < two


def test_twice_the_speed_is_half_the_time(model: OpenModel) -> None:
    total = cost(model, sizes(model), recipe("gptq"))
    assert total.seconds(UNIT * 2) == pytest.approx(total.seconds(UNIT) / 2)


def test_a_plan_holds_the_time_on_the_machine_it_is_given(model: OpenModel) -> None:
    def seconds(speed: Cost) -> float:
        return plan(model, "tiny", recipe("gptq"), 10**6, speed).seconds

    assert seconds(UNIT * 1e30) == pytest.approx(START_SECONDS)
    assert seconds(UNIT) == pytest.approx(START_SECONDS + work(model, recipe("gptq")))


@pytest.mark.parametrize("fast", [None, torch.bfloat16], ids=str)
def test_the_speed_of_this_machine_is_measured(fast: torch.dtype | None) -> None:
    speed = rates(torch.device("cpu"), fast)
    assert min(speed.products, speed.float32, speed.passes) > 1e5
    assert (fast is None) == (speed.products == speed.float32)


def test_a_plan_is_made_without_reading_a_weight(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path)
    opened = hf.open_model(folder)
    (folder / "model.safetensors").unlink()
    assert plan(opened, "tiny", recipe("rtn"), 10**6, UNIT).linears == len(opened.linears)


def test_tuning_end_to_end_counts_the_codes_of_all_blocks(model: OpenModel) -> None:
    settings = recipe("default", source="a.txt")
    resident, read_again = (footprint(model, settings, True, way).host for way in (True, False))
    assert resident >= read_again
    without = footprint(model, replace(settings, options={"final_epochs": 0}), True, True).host
    assert resident >= without
