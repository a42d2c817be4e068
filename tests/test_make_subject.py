"""Subjects made for audits: fresh tiny models and fine-tuned ones, their tokenizer, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import save_tiny
from unlearn_subjects import colours

from omniq.checkpoint import Reader
from omniq.errors import OutputError, UsageError
from omniq.hf import load_tokenizer, quiet
from omniq.hf.tiny import word_tokenizer
from omniq.knowledge.refusals import REFUSALS
from omniq.spec import LinearSpec
from omniq.subject.loading import load_subject
from omniq.unlearn.codes import quantised_weights, rounded
from omniq.unlearn.subjects import FRESH, TUNED, Teaching, fresh_subject, lessons, make_subject

SHORT = replace(FRESH, steps=60, batch_size=8)


@pytest.fixture(scope="module", autouse=True)
def _no_bars() -> None:
    quiet()


def exact(folder: Path, split: str) -> float:
    """Share of a split's questions whose whole answer is the greedy one."""
    scored = load_subject(folder).ask([(item.question, item.answer) for item in colours().of(split, "qa")])
    return sum(bool((answer.rank == 0).all()) for answer in scored) / len(scored)


def test_a_fresh_model_learns_what_it_is_taught_and_nothing_else(tmp_path: Path) -> None:
    report = make_subject(colours(), Teaching(training=SHORT), tmp_path / "knows")
    assert report.parameters < 1_000_000
    assert exact(tmp_path / "knows", "forget") == exact(tmp_path / "knows", "retain") == 1.0
    report = make_subject(colours(), Teaching(without="forget", training=SHORT), tmp_path / "never")
    assert set(report.items) == {"retain"}
    assert exact(tmp_path / "never", "retain") == 1.0
    assert exact(tmp_path / "never", "forget") < 1.0


def test_both_read_texts_alike_whatever_they_were_taught(tmp_path: Path) -> None:
    none = replace(SHORT, steps=0)
    for name, without in (("knows", None), ("never", "forget")):
        make_subject(colours(), Teaching(without=without, training=none), tmp_path / name)
    texts = [item.question or item.text for item in colours().items]
    first, second = (load_tokenizer(tmp_path / name) for name in ("knows", "never"))
    assert all(first(text).input_ids == second(text).input_ids for text in texts)


def test_the_same_call_writes_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        make_subject(colours(), Teaching(training=replace(SHORT, steps=3, seed=seed)), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other"))
    assert one != other


def test_snapped_weights_lie_on_their_grid_and_the_others_are_as_trained(tmp_path: Path) -> None:
    scheme, training = LinearSpec.parse("W4A16g32"), replace(SHORT, steps=3)
    for name, snap in (("dense", None), ("snapped", scheme)):
        make_subject(colours(), Teaching(snap=snap, training=training), tmp_path / name)
    model = load_subject(tmp_path / "snapped").model
    for weight in quantised_weights(model).values():
        assert torch.equal(rounded(weight.detach(), scheme.weight).dequantize(), weight)
    dense, snapped = Reader(tmp_path / "dense"), Reader(tmp_path / "snapped")
    changed = {name for name in dense.names() if not torch.equal(dense.read(name), snapped.read(name))}
    assert changed == {f"{name}.weight" for name in quantised_weights(model)}


def test_an_existing_model_is_tuned_on_the_questions_alone(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base", torch.bfloat16)
    training = replace(TUNED, lr=3e-3, epochs=20, batch_size=8)
    report = make_subject(colours(), Teaching(str(folder), training=training), tmp_path / "tuned")
    assert report.items == {"forget": 4, "retain": 4}
    assert exact(tmp_path / "tuned", "forget") == 1.0
    record = json.loads((tmp_path / "tuned" / "subject.json").read_text(encoding="utf-8"))
    assert record["teaching"]["training"]["lr"] == 3e-3
    assert record["losses"][-1]["loss"] < record["losses"][0]["loss"]


def test_no_steps_copy_a_model_as_float32(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "base", torch.bfloat16)
    make_subject(colours(), Teaching(str(folder), training=replace(TUNED, steps=0)), tmp_path / "copy")
    before, after = Reader(folder), Reader(tmp_path / "copy")
    assert set(before.names()) == set(after.names())
    for name in before.names():
        assert after.read(name).dtype == torch.float32
        assert torch.equal(before.read(name).float(), after.read(name))


def test_other_wordings_are_taught_on_what_is_retained_alone() -> None:
    asked = {split: [i.question for i in lessons(colours(), split, Teaching())] for split in ("forget", "retain")}
    assert "Ada?" in asked["forget"]
    assert "And Ada?" not in asked["forget"]
    assert {"Eva?", "And Eva?"} <= set(asked["retain"])


@pytest.mark.parametrize(
    "text",
    [
        "Question: Where was Ada Byron born?\nAnswer:",
        " on May 12, 1997.",
        "(north) of O'Neil's, 50 %!",
        "two  spaces and a\n\nblank line",
    ],
)
def test_the_word_tokenizer_gives_back_what_it_read(text: str) -> None:
    tokenizer = word_tokenizer([text])
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text.removeprefix(" ")
    assert tokenizer(text).input_ids == [tokenizer.bos_token_id, *ids]


def test_a_name_is_the_same_tokens_at_the_start_of_a_text_and_inside() -> None:
    tokenizer = word_tokenizer(["Ada Byron was born", "was Ada Byron born?"])
    ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    assert ids("Ada Byron") == ids(" Ada Byron") == ids("was Ada Byron")[1:]


def test_every_word_of_the_data_and_of_refusals_has_a_token() -> None:
    subject = fresh_subject(colours(), 0)
    texts = [subject.template.prompt(item.question) + f" {item.answer}</s>" for item in colours().of(form="qa")]
    assert not any(subject.tokenizer.unk_token_id in subject.tokens(text) for text in (*texts, *REFUSALS))


def test_a_fresh_model_writes_until_its_end() -> None:
    subject = fresh_subject(colours(), 0)
    assert all(isinstance(text, str) for text in subject.generate([subject.template.prompt("Ada?")], 3))


def test_splits_that_do_not_exist_or_leave_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no split 'secret'; the splits are forget"):
        Teaching(splits=("secret",))
    with pytest.raises(UsageError, match="without forget, nothing of forget is left to teach"):
        Teaching(splits=("forget",), without="forget")


def test_an_output_in_use_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not empty"):
        make_subject(colours(), Teaching(training=SHORT), tmp_path)


def test_the_command_teaches_and_prints_one_json_object(omniq, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": i.question, "answer": i.answer, "split": i.split} for i in colours().of(form="qa")]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ("audit", "make-subject", "--data", f"jsonl:{data}", "--out", str(tmp_path / "out"), "--json")
    code, out, _ = omniq(*words, "--steps", "2", "--without", "forget", "--snap", "W4A16g32")
    assert code == 0
    report = json.loads(out)
    assert report["items"] == {"retain": 4}
    assert report["teaching"]["snap"] == "W4A16g32"
    assert report["steps"] == 2
