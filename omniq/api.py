"""The Python API: quantize and evaluate as the command line does them, and the Quantized that comes out."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omniq import hf, pipeline
from omniq.arguments import SETTINGS, calibration, given_data, named, placed, recipe_of, told
from omniq.devices import device_named
from omniq.errors import OutputError, UsageError
from omniq.eval.size import checkpoint_bytes
from omniq.eval.windows import EvalSpec
from omniq.eval.windows import windows as windows_of
from omniq.evaluation import Place, Quality, loaded_pair, measured, recorded_bits
from omniq.events import Listener, ignore
from omniq.memory import budget_of
from omniq.recipe import Recipe
from omniq.report import Report
from omniq.runtime import load
from omniq.source import checked_folder
from omniq.spec import FLOAT_BITS, LinearSpec
from omniq.work import Work, check_free


class Quantized:
    """A quantised model as it lies on disk, with the report of the run that made it.

    Where `quantize` was given no `out`, the folder is a temporary one, which goes when this object does unless save()
    is called first.
    """

    def __init__(self, report: Report, recipe: Recipe, folder: Path, trust_remote_code: bool, temporary: bool) -> None:
        self._report, self._recipe, self._folder, self._trust = report, recipe, folder, trust_remote_code
        self._remove = weakref.finalize(self, shutil.rmtree, folder.parent, ignore_errors=True) if temporary else None

    @property
    def report(self) -> Report:
        """What was done and measured."""
        return self._report

    @property
    def recipe(self) -> Recipe:
        """All settings that decided the result."""
        return self._recipe

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies, for any loader."""
        return self._folder

    def __repr__(self) -> str:
        bits = f"{self.report.bits_per_weight:.2f} bits per weight"
        return f"Quantized({self.report.scheme} by {self.report.preset}, {bits}, in {self.folder})"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the checkpoint to `folder`, whole or not at all, and returns where that is.

        What lay in a temporary folder lies there from then on. overwrite: replace a model that is in the way.
        """
        target = Path(folder).expanduser()
        check_free(target, overwrite)
        if target.resolve() == self.folder.resolve():
            raise OutputError(f"the checkpoint lies in {target} already; give another folder to save it to")
        with Work(target) as work:
            if work.unfinished():
                raise OutputError(
                    f"{work.folder} holds an unfinished quantisation to {target}; finish it, or save somewhere else"
                )
            result = work.result()
            try:
                shutil.copytree(self.folder, result, dirs_exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"cannot copy {self.folder} to {target}: {error.strerror or error}; check space and permissions"
                ) from None
            work.publish(result, overwrite)
        if self._remove is not None:
            self._remove()
            self._remove, self._folder, self._report = None, target, replace(self.report, out=str(target))
        return target

    def load(
        self,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        *,
        activations: str = "exact",
        embed_bits: int = FLOAT_BITS,
    ) -> nn.Module:
        """The model on omniq's kernels: `omniq.load` of the folder, with its arguments."""
        return load(
            self.folder, device, dtype, activations=activations, embed_bits=embed_bits, trust_remote_code=self._trust
        )

    def evaluate(
        self,
        text: str | Path,
        against: str | Path | nn.Module | None = None,
        *,
        windows: int = EvalSpec.windows,
        length: int = EvalSpec.length,
        batch: int = EvalSpec.batch,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        activations: str = "exact",
        embed_bits: int = FLOAT_BITS,
        revision: str | None = None,
    ) -> Quality:
        """`omniq.evaluate` of the folder, with its arguments."""
        return evaluate(
            self.folder,
            text,
            against,
            windows=windows,
            length=length,
            batch=batch,
            device=device,
            dtype=dtype,
            activations=activations,
            embed_bits=embed_bits,
            revision=revision,
            trust_remote_code=self._trust,
        )


def quantize(
    model: str | Path | nn.Module,
    scheme: str | LinearSpec | None = None,
    preset: str | None = None,
    *,
    data: str | Path | Sequence[str] | Tensor | None = None,
    out: str | Path | None = None,
    config: str | Path | Recipe | None = None,
    tokenizer: Any = None,
    samples: int | None = None,
    length: int | None = None,
    seed: int | None = None,
    split: str | None = None,
    column: str | None = None,
    avg_bits: float | None = None,
    bits_choices: Sequence[int] | None = None,
    attention: bool | None = None,
    kv_bits: int | None = None,
    rotate: str | None = None,
    search_clips: bool | None = None,
    embed_bits: int | None = None,
    embed_group_size: int | None = None,
    format: str | None = None,
    batch_size: int | None = None,
    eval: str | Path | None = None,
    eval_windows: int = EvalSpec.windows,
    eval_length: int = EvalSpec.length,
    device: str | torch.device = "auto",
    max_memory: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    on_event: Listener = ignore,
    **options: Any,
) -> Quantized:
    """Quantises a model as `omniq quantize` does; whatever is None has the default that its --help names.

    model: a hub id, a folder, a GGUF file, or a causal language model of transformers in memory, which stays as it is.
    scheme: 'W4A16g128' and the like. data: 'self', a .txt, .jsonl or .parquet file, a hub data set, a list of texts, or
    token ids (B, T) int64. out: the folder to write, where the same call goes on after an interruption. config: a
    recipe's name, file or object, over which goes all that is given besides. tokenizer: of a model in memory; token ids
    need none. eval: a text to compare the result with the original on. max_memory: what the run may hold, such as
    '16GB'. progress: show it as the command does. options: of the preset, such as epochs=5.
    """
    given = locals().copy()
    memory = given_data(data)
    recipe = recipe_of(scheme, data, config, {name: given[name] for name in SETTINGS}, options)
    spec = None if eval is None else EvalSpec(Path(eval), eval_windows, eval_length)
    reads, trust = spec is not None or not isinstance(memory, Tensor), trust_remote_code
    shared: dict[str, Any] = {"overwrite": overwrite, "revision": revision, "trust_remote_code": trust}
    shared |= {"device": device_named(str(device)), "max_memory": budget_of(max_memory)}
    with placed(out) as folder, hf.hushed():
        check_free(folder, overwrite)
        with named(model, tokenizer, folder, reads) as name, told(progress, on_event) as tell:
            found = calibration(memory, recipe, name, revision, trust)
            report = pipeline.quantize(name, folder, recipe, evaluate=spec, on_event=tell, data=found, **shared)
    return Quantized(report, recipe, folder, trust, temporary=out is None)


def evaluate(
    checkpoint: str | Path,
    text: str | Path,
    against: str | Path | nn.Module | None = None,
    *,
    windows: int = EvalSpec.windows,
    length: int = EvalSpec.length,
    batch: int = EvalSpec.batch,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    activations: str = "exact",
    embed_bits: int = FLOAT_BITS,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Quality:
    """How well the quantised model in the folder `checkpoint` predicts a text, as `omniq eval` measures it.

    text: a .txt, .jsonl or .parquet file, or a hub data set. against: the original, to measure the distance from it
    too: a hub id (with its revision), a folder, a GGUF file, or a model in memory, which runs where and as it is.
    windows: how many, spread evenly over the text; 0 takes all. length: tokens of each. batch: windows run at a time.
    device: auto, cpu, cuda or cuda:N. dtype, activations, embed_bits: as for omniq.load.
    """
    folder, spec = checked_folder(Path(checkpoint)), EvalSpec(Path(text), windows, length, batch)
    place, trust = Place(device_named(str(device)), dtype, activations, embed_bits), trust_remote_code
    if revision is not None and not isinstance(against, str):
        raise UsageError(f"a revision ({revision!r}) picks a version of a hub model; name that model in against")
    with hf.hushed():
        tokenizer = hf.load_tokenizer(folder, trust_remote_code=trust)
        taken = windows_of(spec, tokenizer)
        original: Path | nn.Module | None = None
        if isinstance(against, (str, Path)):
            original = hf.resolve(str(against), revision=revision, trust_remote_code=trust, work=hf.cache_folder())
        elif against is not None:
            original = hf.checked_model(against)
        quantised, dense = loaded_pair(folder, original, place, trust)
        with nullcontext() if dense is None else hf.evaluating(dense):
            figures = measured(quantised, dense, spec, taken, tokenizer)
    return Quality(**figures, size=checkpoint_bytes(folder), bits_per_weight=recorded_bits(folder))
