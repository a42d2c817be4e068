"""The model card: front matter that the hub reads, the original's licence, and sections that can be made anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from run_records import QUALITY, hostile, linear, record

from omniq.card import front_matter, model_card, original_facts, with_quality, without_path
from omniq.reporting.record import Record

ORIGINAL = """---
license: other
license_name: llama4
license_link: LICENSE
language: [en, fr]
tags: [llama, "base_model:someone/else", facebook]
extra_gated_prompt: agree
model-index: [{name: x}]
---
# The original
"""


def front(card: str) -> dict:
    """The values at the head of a card, by a parser that is not omniq's own splitting."""
    assert card.startswith("---\n")
    return next(yaml.safe_load_all(card))


@pytest.mark.parametrize("made", [record(), record(quality=QUALITY), record(from_hub=False), hostile()])
def test_the_front_matter_is_yaml_that_the_hub_library_reads(made: Record) -> None:
    card = model_card(made)
    values = front(card)
    read = ModelCard(card).data.to_dict()
    assert {key: read[key] for key in values} == values
    assert ("base_model" in values) is made.from_hub
    assert values.get("base_model", made.base) == made.base


def test_the_front_matter_tells_what_it_is() -> None:
    values = front(model_card(record()))
    assert values["base_model_relation"] == "quantized"
    assert values["library_name"] == "transformers"
    assert values["pipeline_tag"] == "text-generation"
    assert values["license"] == "apache-2.0"
    assert values["tags"] == ["llama", "omniq", "quantized", "compressed-tensors", "4-bit", "W4A16g64"]
    assert values["quantization"]["bits_per_weight"] == 4.25


def test_what_transformers_does_not_load_is_not_called_its_own() -> None:
    made = record(loaders=("transformers, vLLM, SGLang: no (a transform).", "omniq: yes."))
    card = model_card(made)
    assert front(card)["library_name"] == "omniq"
    assert "from_pretrained" not in card
    assert "omniq.load" in card


def test_the_licence_of_the_original_is_kept_and_the_rest_of_its_card_is_not(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(ORIGINAL)
    facts = original_facts(tmp_path)
    kept = {"license": "other", "license_name": "llama4", "license_link": "LICENSE", "language": ["en", "fr"]}
    assert facts == kept | {"tags": ["llama", "facebook"]}
    card = model_card(record(card=facts))
    assert front(card).items() >= kept.items()
    assert "llama4, as the original: LICENSE" in card


@pytest.mark.parametrize(
    "text", ["", "# no front", "---\n[1, 2\n---\n", "---\n- a\n---\n", "---\nlicense: {a: 1}\n---\n"]
)
def test_a_card_without_readable_facts_gives_none(text: str, tmp_path: Path) -> None:
    assert original_facts(tmp_path) == {}
    (tmp_path / "README.md").write_text(text)
    assert original_facts(tmp_path) == {}
    assert "did not name" in model_card(record(card={}))


def test_every_loader_that_loads_has_a_snippet_and_no_other() -> None:
    card = model_card(record())
    assert "from_pretrained" in card
    assert "vllm serve" not in card, "whose kernels want other groups"
    assert "vllm serve" in model_card(record(loaders=("vLLM: yes.", "omniq: yes.")))


def test_quality_measured_later_takes_the_place_of_what_was_there_and_of_nothing_else() -> None:
    before = model_card(record()).replace("## Recipe", "## Mine\nkept\n\n## Recipe")
    after = with_quality(before, record(quality=QUALITY))
    assert "| perplexity | 20.000 | 22.500 |" in after
    assert "Not measured" not in after
    assert "## Mine\nkept\n\n## Recipe" in after
    assert before.partition("## Quality")[0] == after.partition("## Quality")[0]
    assert with_quality(after, record(quality=QUALITY)) == after
    assert with_quality("# my own card", record(quality=QUALITY)) is None
    alone = with_quality(before, record(quality={"ppl": 22.5, "protocol": "P", "kl": None}))
    assert "Perplexity 22.500, on P." in alone


def test_bits_of_all_linears_are_tags() -> None:
    from dataclasses import replace

    blocks = (replace(record().blocks[0], linears=(linear(0, "q", bits=2), linear(0, "v", bits=8))),)
    assert {"2-bit", "8-bit"} <= set(front(model_card(record(blocks=blocks)))["tags"])


def test_a_recipe_without_paths_names_files_alone() -> None:
    values = {"scheme": "W4A16", "data": {"source": "/home/me/secret/wiki.txt", "samples": 4}}
    assert without_path(values)["data"] == {"source": "wiki.txt", "samples": 4}
    for source in ("self", "org/data:config"):
        assert without_path({"data": {"source": source}})["data"] == {"source": source}
    assert front_matter("---\r\nlicense: mit\r\n---\r\n") == {"license": "mit"}
