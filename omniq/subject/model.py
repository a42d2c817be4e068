"""Subject: a model with its tokenizer, asked for likelihoods, greedy answers and hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omniq.errors import DataError
from omniq.structure import blocks_path
from omniq.subject.prefix import grouped, prompt_batches, scored_groups
from omniq.subject.scoring import Encoded, Scored, batches, keeps_logits, scored_batch
from omniq.subject.template import Template
from omniq.text import leading

BATCH_TOKENS = 2048


@dataclass(eq=False)
class Subject:
    """model: a causal LM in eval mode. label: for people. batch_tokens: padded tokens of a forward pass.

    Everything is greedy and deterministic; log-softmax is float32 whatever the model computes in.
    """

    model: nn.Module
    tokenizer: Any
    template: Template
    label: str = ""
    batch_tokens: int = BATCH_TOKENS
    shares_prompts: bool = field(init=False, default=True)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return next(self.model.parameters()).device

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, L of them."""
        return self.model.get_submodule(blocks_path(self.model))

    def tokens(self, text: str) -> list[int]:
        """Ids of a text, no special tokens added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def start(self, text: str) -> list[int]:
        """Ids of a text that begins a sequence: after the tokenizer's own BOS, unless the text begins with it."""
        ids, bos = self.tokens(text), leading(self.tokenizer)
        return ids if ids[: len(bos)] == bos else [*bos, *ids]

    def encode(self, prompt: str, answer: str) -> Encoded:
        """Prompt and answer tokenised separately and joined. An empty prompt: all tokens after the first are scored."""
        before, after = self.start(prompt), self.tokens(answer)
        if not before:
            before, after = after[:1], after[1:]
        if not after:
            raise DataError(
                f"{answer[:40]!r} has no token to score after {prompt[-40:]!r}; give a longer answer or text"
            )
        return Encoded([*before, *after], len(before))

    def score(self, pairs: Sequence[tuple[str, str]], moments: bool = False, limit: int | None = None) -> list[Scored]:
        """(prompt, answer) pairs -> Scored of the answer's tokens, in the order given.

        moments: also the mean and deviation of log-probabilities under the model, for Min-K%++. limit: only the first
        tokens of prompt and answer together, cut at this number.
        """
        encoded = [self.encode(prompt, answer).cut(limit) for prompt, answer in pairs]
        results: list[Scored | None] = [None] * len(encoded)
        groups, single = grouped(encoded)
        for places in prompt_batches([[encoded[i] for i in group] for group in groups], self.batch_tokens):
            batch = [groups[place] for place in places]
            found = self._scored_groups([[encoded[i] for i in group] for group in batch], moments)
            if found is None:
                single += [i for group in batch for i in group]
                continue
            for group, answers in zip(batch, found, strict=True):
                for index, scored in zip(group, answers, strict=True):
                    results[index] = scored
        rest = [encoded[i] for i in single]
        for indices in batches(rest, self.batch_tokens):
            found = scored_batch(self.model, [rest[i] for i in indices], self.device, moments)
            for index, scored in zip(indices, found, strict=True):
                results[single[index]] = scored
        return results

    def _scored_groups(self, groups: list[list[Encoded]], moments: bool) -> list[list[Scored]] | None:
        """Groups of answers that share a prompt, or None once the model has shown that it can't share one."""
        if not self.shares_prompts:
            return None
        found = scored_groups(self.model, groups, self.device, self.batch_tokens, moments)
        self.shares_prompts = found is not None
        return found

    def ask(self, questions: Sequence[tuple[str, str]]) -> list[Scored]:
        """(question, answer) pairs put through the template -> Scored of the answer's tokens."""
        return self.score([(self.template.prompt(q), self.template.answer(a)) for q, a in questions])

    def generate(self, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        """Greedy continuations, cut before the first of the `stop` strings or the template's end, stripped."""
        results = [""] * len(prompts)
        encoded = [self.start(prompt) for prompt in prompts]
        stops = tuple(dict.fromkeys((*stop, self.template.end)))
        for indices in self.by_length(encoded, max_new_tokens):
            written = self._continued([encoded[i] for i in indices], max_new_tokens, stops)
            for index, ids in zip(indices, written, strict=True):
                results[index] = before_any(self.tokenizer.decode(ids, skip_special_tokens=False), stops).strip()
        return results

    @torch.no_grad()
    def _continued(self, prompts: list[list[int]], max_new_tokens: int, stops: Sequence[str]) -> list[list[int]]:
        """Ids (B lists of T) -> the new ids of each, greedy; padded on the left, with positions by the mask."""
        width, pad = max(map(len, prompts)), self.pad
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        written = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            stop_strings=list(stops),
            tokenizer=self.tokenizer,
        )
        return written[:, width:].tolist()

    @property
    def pad(self) -> int:
        """An id to fill rows with; what it is changes nothing, since it is masked or never scored."""
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return token
        return 0

    def by_length(self, sequences: Sequence[Sequence[int]], extra: int = 0) -> Iterator[list[int]]:
        """Indices in batches of similar length, each of at most batch_tokens padded tokens with `extra` a row."""
        return batches([Encoded(list(ids), len(ids)) for ids in sequences], self.batch_tokens, extra)

    @torch.no_grad()
    def states(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states at the last token of each prompt: (B, L + 1, D) float16, on the CPU.

        Index 0 is the input of the first block, index l the output of block l; none has been through the final norm.
        """
        return torch.stack([rows[:, -1] for rows in self.states_at([(p, (-1,)) for p in prompts])])

    @torch.no_grad()
    def states_at(self, places: Sequence[tuple[str, Sequence[int]]]) -> list[Tensor]:
        """(text, token positions, P of them) pairs -> hidden states (L + 1, P, D) float16 of each, on the CPU."""
        encoded = [self.start(text) for text, _ in places]
        results: list[Tensor | None] = [None] * len(places)
        for indices in self.by_length(encoded):
            rows = [encoded[i] for i in indices]
            width = max(map(len, rows))
            ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows], device=self.device)
            layers = torch.stack(self.hidden(ids), 1)
            for place, index in enumerate(indices):
                wanted = [at % len(rows[place]) for at in places[index][1]]
                results[index] = layers[place][:, wanted].half().cpu()
        return results

    @torch.no_grad()
    def hidden(self, ids: Tensor) -> list[Tensor]:
        """ids (B, T), padded on the right -> the input of the first block and the output of each block (B, T, D)."""
        found: list[Tensor] = []
        blocks = self.blocks

        def before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            found.append(entering(args, kwargs))

        hooks = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
        hooks += [block.register_forward_hook(lambda _, args, out: found.append(leaving(out))) for block in blocks]
        try:
            self.model(input_ids=ids, use_cache=False, **last_logits(self.model))
        finally:
            for hook in hooks:
                hook.remove()
        return found


def entering(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The hidden states (B, T, D) that a decoder block is called with."""
    return args[0] if args else kwargs["hidden_states"]


def leaving(out: Any) -> Tensor:
    """The hidden states (B, T, D) that a decoder block gives, alone or first of several."""
    return out if isinstance(out, Tensor) else out[0]


def last_logits(model: nn.Module) -> dict[str, Any]:
    """The arguments that spare the output head all positions but the last, where the model can."""
    return {"logits_to_keep": 1} if keeps_logits(model) else {}


def before_any(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings that occurs."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


def mean_logp(scored: Scored) -> float:
    """Mean log-probability of an answer's tokens in nats: -nll / |a|."""
    return float(np.mean(scored.logp))
