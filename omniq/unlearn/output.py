"""Writing a trained model as a complete folder, in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from omniq.errors import OutputError
from omniq.shards import write_text
from omniq.subject.model import Subject
from omniq.work import Work


def write_subject(subject: Subject, out: Path, record: str, facts: Mapping[str, Any], overwrite: bool) -> None:
    """Writes weights, config and tokenizer to the folder `out`, and `facts` to the file `record` in it.

    Everything is written beside `out` first: what stands there is the old folder or the whole new one, never a part.
    """
    with Work(out) as work:
        result = work.result()
        try:
            subject.model.save_pretrained(result, max_shard_size="5GB")
            subject.tokenizer.save_pretrained(result)
        except (OSError, SafetensorError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OutputError(f"cannot write the model to {out}: {reason}; check space and permissions there") from None
        write_text(result / record, json.dumps(facts, indent=2) + "\n")
        work.publish(result, overwrite)
