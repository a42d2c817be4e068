"""Subject: what a model is asked gives the same answer however the questions are batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import save_tiny, tiny_model, tiny_tokenizer

from omniq.errors import DataError, UsageError
from omniq.pipeline import quantize
from omniq.recipe import Recipe
from omniq.spec import LinearSpec
from omniq.subject.loading import dequantized, is_quantized, load_subject, load_trainable
from omniq.subject.model import Subject, before_any
from omniq.subject.scoring import Encoded, batches
from omniq.subject.template import template

PAIRS = [
    ("the quick brown fox", " jumps over the lazy dog"),
    ("seven", " wizards"),
    ("a model of language reads a text, token after token, and", " says what comes next"),
    ("numbers such as 3, 14", ", 159 and 2653 stand in the text as well"),
]
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def subject(name: str = "llama", budget: int = 4096) -> Subject:
    """A tiny random model behind the plain template."""
    tokenizer = tiny_tokenizer()
    return Subject(tiny_model(name)[1], tokenizer, template("plain", tokenizer), "tiny", budget)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model folder and the same quantised to 4 bits."""
    base = tmp_path_factory.mktemp("subject")
    dense = save_tiny("llama", base / "dense")
    quantize(str(dense), base / "w4", Recipe(LinearSpec.parse("W4A16g32"), preset="rtn"))
    return dense, base / "w4"


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt_neox", "mixtral"])
def test_scores_are_the_models_own_log_probabilities(name: str) -> None:
    asked = subject(name)
    for (prompt, answer), scored in zip(PAIRS, asked.score(PAIRS), strict=True):
        before, after = asked.start(prompt), asked.tokens(answer)
        logits = asked.model(input_ids=torch.tensor([before + after])).logits[0].double().log_softmax(-1)
        rows = logits[len(before) - 1 : -1]
        expected = rows[torch.arange(len(after)), torch.tensor(after)].detach().numpy()
        np.testing.assert_allclose(scored.logp, expected, atol=2e-5)
        assert scored.ids.tolist() == after
        assert [bool(rank == 0) for rank in scored.rank] == (rows.argmax(-1).numpy() == after).tolist()


SIBLINGS = [(prompt, answer) for prompt, _ in PAIRS for _, answer in PAIRS] + [PAIRS[0], ("", "a text by itself")]


@pytest.mark.parametrize("budget", [1, 40, 4096])
@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt_neox", "mixtral"])
def test_answers_that_share_a_prompt_score_as_each_by_itself(name: str, budget: int) -> None:
    together, alone = subject(name, budget), subject(name)
    single = [alone.score([pair], moments=True)[0] for pair in SIBLINGS]
    for one, other in zip(together.score(SIBLINGS, moments=True), single, strict=True):
        assert (one.ids.tolist(), one.rank.tolist()) == (other.ids.tolist(), other.rank.tolist())
        for field in ("logp", "mean", "deviation"):
            np.testing.assert_allclose(getattr(one, field), getattr(other, field), atol=2e-5)


def test_a_prompt_is_computed_once_for_all_its_answers() -> None:
    asked, tokens = subject(), []
    asked.model.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompt, answers = PAIRS[0][0], [answer for _, answer in PAIRS]
    asked.score([(prompt, answer) for answer in answers])
    longest = max(len(asked.tokens(answer)) for answer in answers)
    assert tokens == [len(asked.start(prompt)), len(answers) * (longest - 1)]


class Forgetful(torch.nn.Module):
    """A model whose cache isn't one of keys and values."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def get_input_embeddings(self) -> torch.nn.Module:
        """The inner model's."""
        return self.model.get_input_embeddings()

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> object:
        """The inner model's output without its cache."""
        out = self.model(input_ids=input_ids, use_cache=False)
        out.past_key_values = None
        return out


def test_a_model_without_a_cache_to_share_is_asked_answer_by_answer() -> None:
    plain, asked = subject(), subject()
    asked.model = Forgetful(asked.model)
    for one, other in zip(asked.score(SIBLINGS), plain.score(SIBLINGS), strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=2e-5)
    assert not asked.shares_prompts


def test_scores_do_not_depend_on_the_batches() -> None:
    together, alone = subject(budget=4096), subject(budget=1)
    for a, b in zip(together.score(PAIRS, moments=True), alone.score(PAIRS, moments=True), strict=True):
        for field in ("logp", "mean", "deviation"):
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), atol=2e-5)


def test_moments_are_those_of_the_log_probabilities_under_the_model() -> None:
    asked = subject()
    scored = asked.score(PAIRS[:1], moments=True)[0]
    before, after = asked.start(PAIRS[0][0]), asked.tokens(PAIRS[0][1])
    logits = asked.model(input_ids=torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    deviation = (p * (log_p - mean[:, None]) ** 2).sum(-1).sqrt()
    np.testing.assert_allclose(scored.mean, mean.detach().numpy(), rtol=1e-4)
    np.testing.assert_allclose(scored.deviation, deviation.detach().numpy(), rtol=1e-3)


def test_without_a_prompt_all_tokens_after_the_first_are_scored() -> None:
    asked = subject()
    text = "the quick brown fox"
    assert asked.score([("", text)])[0].ids.tolist() == asked.tokens(text)[1:]


def test_an_answer_without_a_token_is_refused() -> None:
    with pytest.raises(DataError, match="no token to score"):
        subject().score([("the quick", "")])


def test_a_limit_cuts_the_answer_but_leaves_one_token() -> None:
    asked = subject()
    whole, short = asked.score(PAIRS[:1])[0], asked.score(PAIRS[:1], limit=1)[0]
    assert len(short.logp) == 1
    np.testing.assert_allclose(short.logp[0], whole.logp[0], atol=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "opt"])
def test_what_is_written_does_not_depend_on_the_batches(name: str) -> None:
    prompts = [prompt for prompt, _ in PAIRS]
    together, alone = subject(name, 4096).generate(prompts, 8), subject(name, 1).generate(prompts, 8)
    assert together == alone
    assert any(together)


def test_writing_stops_before_a_stop_string() -> None:
    asked = subject()
    whole = asked.generate([PAIRS[0][0]], 12)[0]
    stop = whole[3:5]
    assert asked.generate([PAIRS[0][0]], 12, stop=[stop])[0] == before_any(whole, [stop]).strip()


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3"])
def test_states_are_the_hidden_states_of_the_last_token(name: str) -> None:
    asked = subject(name)
    prompts = [prompt for prompt, _ in PAIRS]
    states = asked.states(prompts)
    for prompt, found in zip(prompts, states, strict=True):
        ids = torch.tensor([asked.start(prompt)])
        expected = asked.model(input_ids=ids, output_hidden_states=True).hidden_states
        # The last of transformers' hidden states has been through the final norm; ours has not.
        for layer in range(len(expected) - 1):
            torch.testing.assert_close(found[layer].float(), expected[layer][0, -1].detach(), atol=2e-2, rtol=2e-2)
        assert len(found) == len(asked.blocks) + 1


def test_states_at_positions_agree_with_states_at_the_end() -> None:
    asked = subject()
    text = PAIRS[2][0]
    at = asked.states_at([(text, (0, -1))])[0]
    assert torch.equal(at[:, 1], asked.states([text])[0])
    assert at.shape[1] == 2


def test_batches_hold_every_row_once_and_keep_to_the_budget() -> None:
    rows = [Encoded([0] * length, 1) for length in (3, 50, 7, 7, 20, 1)]
    found = list(batches(rows, budget=40))
    assert sorted(index for batch in found for index in batch) == list(range(len(rows)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(len(rows[i].ids) for i in batch) <= 40


def test_the_chat_template_is_taken_where_there_is_one() -> None:
    tokenizer = tiny_tokenizer()
    assert template("auto", tokenizer).name == "plain"
    with pytest.raises(UsageError, match="no chat template"):
        template("chat", tokenizer)
    tokenizer.chat_template = CHAT
    chosen = template("auto", tokenizer)
    assert (chosen.name, chosen.end) == ("chat", "</s>")
    assert chosen.prompt("why?") == "<user>why?</s><assistant>"


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(UsageError, match="plain, chat"):
        template("fancy", tiny_tokenizer())


@pytest.mark.parametrize("name", ["llama", "opt", "qwen2_moe"])
def test_a_packed_checkpoint_as_a_dense_copy_computes_the_same(name: str, tmp_path: Path) -> None:
    dense = save_tiny(name, tmp_path / "dense")
    quantize(str(dense), tmp_path / "w8", Recipe(LinearSpec.parse("W8A16g16"), preset="rtn"))
    ids = torch.arange(2, 26)[None]
    packed = load_subject(tmp_path / "w8", dtype=torch.float32).model
    torch.testing.assert_close(dequantized(tmp_path / "w8")(ids).logits, packed(ids).logits, atol=2e-3, rtol=2e-3)


def test_a_trainable_copy_takes_gradients_everywhere(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        copy = load_trainable(folder)
        copy.model(input_ids=torch.arange(2, 12)[None]).logits.float().square().mean().backward()
        assert all(parameter.grad is not None for parameter in copy.model.parameters())


def test_a_folder_tells_whether_it_is_quantised(folders: tuple[Path, Path]) -> None:
    assert [is_quantized(folder) for folder in folders] == [False, True]
