"""What an exported task folder brings along as utils.py: how its tasks are read and scored inside lm-eval.

omniq.audit.lm_eval_export copies the functions of COPIED, so that the harness scores answers as an audit does. They
may use each other, the constants of omniq.audit.metrics and the standard library, and nothing else of omniq.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omniq.audit.metrics.answers import contains, exact_match, normalised
from omniq.audit.metrics.rouge import common_length, rouge_l, words


def load(file: str, **_: Any) -> dict[str, Any]:
    """The rows of a .jsonl file that lies beside this one, as the split `test`."""
    from datasets import Dataset

    with Path(__file__).with_name(file).open(encoding="utf-8") as rows:
        return {"test": Dataset.from_list([json.loads(row) for row in rows])}


def generation(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """A written answer against the right one: equal, containing it, ROUGE-L recall (TOFU) and F1 (MUSE)."""
    recall, f1 = rouge_l(results[0], doc["answer"])
    equal, within = exact_match(results[0], doc["answer"]), contains(results[0], doc["answer"])
    return {"em": float(equal), "contains": float(within), "rougeL_recall": recall, "rougeL_f1": f1}


def likelihood(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """The right answer's log-probability, summed over its tokens, and whether greedy decoding would write it."""
    ((log_p, greedy),) = results
    return {"logprob": log_p, "greedy": float(greedy)}


COPIED = (words, common_length, rouge_l, normalised, exact_match, contains, load, generation, likelihood)
