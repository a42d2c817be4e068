"""How likely each of a few short options is as what comes next, such as the letters of a multiple-choice question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from omniq.eval.base import log_probabilities
from omniq.subject.model import Subject
from omniq.subject.scoring import keeps_logits


def option_logp(subject: Subject, prompts: Sequence[str], options: Sequence[str]) -> np.ndarray:
    """Sum of log-probabilities in nats of each of O options after each of B prompts: (B, O)."""
    ids = [subject.tokens(option) for option in options]
    if all(len(tokens) == 1 for tokens in ids):
        return next_logp(subject, prompts, [token for (token,) in ids])
    scored = subject.score([(prompt, option) for prompt in prompts for option in options])
    return np.array([one.logp.sum() for one in scored]).reshape(len(prompts), len(options))


@torch.no_grad()
def next_logp(subject: Subject, prompts: Sequence[str], tokens: Sequence[int]) -> np.ndarray:
    """Log-probability in nats of each of O tokens as the one after each of B prompts: (B, O); one pass a prompt."""
    encoded = [subject.start(prompt) for prompt in prompts]
    found = np.empty((len(prompts), len(tokens)))
    for indices in subject.by_length(encoded):
        batch = [encoded[i] for i in indices]
        width = max(map(len, batch))
        ids = torch.tensor([row + [subject.pad] * (width - len(row)) for row in batch], device=subject.device)
        last = sorted({len(row) - 1 for row in batch})
        kept = {"logits_to_keep": torch.tensor(last, device=subject.device)} if keeps_logits(subject.model) else {}
        logits = subject.model(input_ids=ids, use_cache=False, **kept).logits
        places = [last.index(len(row) - 1) if kept else len(row) - 1 for row in batch]
        chosen = logits[torch.arange(len(batch)), places]
        found[indices] = log_probabilities(chosen, "the model")[:, list(tokens)].double().cpu().numpy()
    return found
