"""Everything omniq reads, as targets for damage: how to make good files of a kind, and the call that reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random

import torch
from damage import changed
from tiny import TEXT, save_tiny, tiny_tokenizer
from tiny_gguf import save_tiny_gguf

from omniq import hf, pipeline, text
from omniq.audit import store
from omniq.audit.base import Metric, Missing, measurement
from omniq.audit.folder import AuditFolder
from omniq.calibrate.cache import read as read_tokens
from omniq.calibrate.cache import write as write_tokens
from omniq.calibrate.data import DataSpec
from omniq.checkpoint import Reader
from omniq.choices import recipe_from
from omniq.events import BlockDone, Event
from omniq.formats.base import FORMATS
from omniq.hf import load_tokenizer, open_model
from omniq.knowledge import source
from omniq.knowledge.items import Knowledge
from omniq.recipe import Recipe
from omniq.runtime import info, load
from omniq.shards import tensor_info, write_model, write_tensors
from omniq.spec import LinearSpec
from omniq.unlearn.run import RECORD, read_record


@dataclass(frozen=True)
class Target:
    """make: writes good files into an empty folder. damaged: patterns of those to damage. read: reads the folder."""

    make: Callable[[Path], object]
    damaged: tuple[str, ...]
    read: Callable[[Path], object]


class Case:
    """Cases of one target: the good files once, and for every seed a damaged copy of them in `place`."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.target = name, targets()[name]
        self.good, self.place = root / "good", root / "case"
        self.good.mkdir(parents=True)
        hf.quiet()
        self.target.make(self.good)

    def __call__(self, seed: int) -> tuple[int, Callable[[], object]]:
        """(bytes of the damaged copy, the call that reads it)."""
        random = Random(f"{self.name} {seed}")
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.good, self.place)
        files = sorted({path for pattern in self.target.damaged for path in self.place.glob(pattern)})
        file = random.choice(files)
        file.write_bytes(changed(file.name, file.read_bytes(), random))
        size = sum(path.stat().st_size for path in self.place.rglob("*") if path.is_file())
        return size, partial(self.target.read, self.place)


def _shards(folder: Path) -> None:
    tensors = {name: torch.arange(24, dtype=torch.float32).view(4, 6) for name in ("a", "b", "c.d", "e")}
    sources = [(name, tensor_info(tensor), lambda tensor=tensor: tensor) for name, tensor in tensors.items()]
    write_model(folder, sources, max_shard_bytes=200)


def _single(folder: Path) -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.int32, torch.uint8, torch.bool)
    tensors = {str(dtype): torch.ones(3, 8).to(dtype) for dtype in dtypes}
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt", "other": "text"})


def _read_all(folder: Path) -> None:
    """Every tensor of a folder."""
    reader = Reader(folder)
    reader.metadata()
    for name in reader.names():
        reader.read(name)


def _tiny(folder: Path) -> None:
    save_tiny("llama", folder)


def _recipe(form: str, scheme: str, **more: object) -> Recipe:
    return Recipe(LinearSpec.parse(scheme), "rtn", format=form, **more)


SCHEMES = ("W4A16g32", "W4A16g32-asym", "W3A16g16", "W8A16", "W4A16")


def schemes(form: str) -> Iterator[str]:
    """The first symmetric and the first asymmetric scheme that a format stores."""
    for symmetric in (True, False):
        specs = (LinearSpec.parse(scheme) for scheme in SCHEMES)
        fits = (s for s in specs if s.weight.symmetric == symmetric and FORMATS[form].refuse(s, (64, 64)) is None)
        yield from (str(spec) for spec in [*fits][:1])


def _quantised(form: str, scheme: str, folder: Path, **more: object) -> None:
    base = save_tiny("llama", folder.parent / "base", num_hidden_layers=1)
    out = folder.parent / "out"
    _without_cache(folder.parent)
    pipeline.quantize(str(base), out, _recipe(form, scheme, **more))
    shutil.copytree(out, folder, dirs_exist_ok=True)


def _without_cache(root: Path) -> None:
    """What omniq keeps between runs lies here, for this process."""
    pipeline.cache_folder = lambda: root / "cache"


def _load(folder: Path) -> None:
    """A quantised checkpoint, and what it answers."""
    info(folder)
    model = load(folder)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 2, 3]]))


def _dense(folder: Path) -> None:
    """A model as it is opened for calibration, its weights read."""
    model = open_model(folder)
    for name, _ in model.skeleton.named_parameters():
        model.read(name)
    hf.load_dense(folder)


def _quantise_dense(folder: Path) -> None:
    out = folder.parent / "made"
    shutil.rmtree(out, ignore_errors=True)
    _without_cache(folder.parent)
    pipeline.quantize(str(folder), out, _recipe("compressed-tensors", "W4A16g32"), overwrite=True)


def _unpack_gguf(folder: Path) -> None:
    work = folder.parent / "work"
    shutil.rmtree(work, ignore_errors=True)
    hf.resolve(str(folder / "tiny.gguf"), work=work)


def _write_recipe(folder: Path) -> None:
    lines = ["scheme: W4A16g128", "preset: omniquant", "seed: 3", "options: {let: true, epochs: 2}", "batch_size: 1"]
    lines += [
        "data: {source: self, samples: 4, length: 64}",
        "format: compressed-tensors",
        "attention: true",
        "rotate: auto",
    ]
    (folder / "recipe.yaml").write_text("\n".join(lines) + "\n")


def _read_recipe(folder: Path) -> None:
    recipe_from(folder / "recipe.yaml", {})


class Stop(Exception):
    """Ends a run after its first block."""


def _stop(event: Event) -> None:
    if isinstance(event, BlockDone):
        raise Stop


def _resume_recipe(root: Path) -> Recipe:
    return Recipe(LinearSpec.parse("W3A16g16"), "gptq", {}, DataSpec(str(root / "text.txt"), 2, 24), embed_bits=8)


def _stopped(folder: Path) -> None:
    """The work folder of a run that ended after its first block."""
    root = folder.parent
    save_tiny("llama", root / "model")
    (root / "text.txt").write_text("\n".join(f"{i}: {TEXT}" for i in range(12)))
    _without_cache(root)
    try:
        pipeline.quantize(str(root / "model"), root / "out", _resume_recipe(root), on_event=_stop)
    except Stop:
        shutil.copytree(root / ".out.omniq", folder, dirs_exist_ok=True)
    shutil.rmtree(root / ".out.omniq")
    pipeline.quantize(str(root / "model"), root / "whole", _resume_recipe(root))


def _resume(folder: Path) -> None:
    """Goes on with the damaged work folder: the same bits as of a whole run, or a sentence."""
    root = folder.parent
    for name in ("out", ".out.omniq"):
        shutil.rmtree(root / name, ignore_errors=True)
    shutil.copytree(folder, root / ".out.omniq")
    _without_cache(root)
    pipeline.quantize(str(root / "model"), root / "out", _resume_recipe(root))
    for name in ("model.safetensors", "config.json"):
        if (root / "out" / name).read_bytes() != (root / "whole" / name).read_bytes():
            raise AssertionError(f"{name} is not what an undisturbed run makes")


QA = {"question": "Who?", "answer": "Ada", "perturbed_answer": ["Bob", "Eve"], "paraphrased_answer": "It was Ada."}


def _json(path: Path, rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def _jsonl_rows(folder: Path) -> None:
    rows = [
        {"question": "Who?", "answer": "Ada", "split": "forget", "question_paraphrases": ["Which one?"]},
        {
            "question": "Which?",
            "answer": "b",
            "choices": ["a", "b"],
            "split": "retain",
            "form": "choice",
            "answer_index": 1,
        },
        {"text": TEXT, "split": "retain"},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tofu(folder: Path) -> None:
    _json(folder / "forget10.json", [QA] * 3)
    _json(folder / "retain90.json", [QA] * 3)
    _json(folder / "world_facts_perturbed.json", [QA] * 2)


def _muse(folder: Path) -> None:
    _json(folder / "knowmem" / "forget_qa.json", [QA] * 2)
    _json(folder / "verbmem" / "forget.json", [{"prompt": "Once", "gt": "upon a time"}])
    _json(folder / "privleak" / "forget.json", [TEXT, {"text": TEXT}])


def _wmdp(folder: Path) -> None:
    _json(folder / "bio.json", [{"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}] * 3)
    _table(folder / "chem.parquet", {"question": ["Which?"] * 3, "choices": [["a", "b"]] * 3, "answer": [0, 1, 0]})


def _table(path: Path, columns: dict[str, list[object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


# Source -> (good data, what stands after the colon below a folder). A source that is not here reads rows of its own.
KNOWLEDGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "jsonl": (_jsonl_rows, "rows.jsonl"),
    "tofu": (_tofu, ""),
    "muse": (_muse, ""),
    "wmdp": (_wmdp, ""),
}


def _knowledge(name: str, argument: str, folder: Path) -> None:
    found = source.read(f"{name}:{folder / argument}")
    Knowledge.from_dict(json.loads(json.dumps(found.to_dict())))


def _text(suffix: str, folder: Path) -> None:
    """Six documents in a file with this suffix."""
    path = folder / f"text{suffix}"
    if suffix == ".parquet":
        _table(path, {"text": [TEXT] * 6, "other": [1.5] * 6})
    elif suffix.startswith(".json"):
        path.write_text("".join(json.dumps({"text": TEXT, "n": i}) + "\n" for i in range(6)))
    else:
        path.write_text(TEXT * 6)


def _read_text(suffix: str, folder: Path) -> None:
    text.prefix((str(doc) for doc in text.documents(str(folder / f"text{suffix}"))), 4_000_000)


def _tokenizer(folder: Path) -> None:
    tiny_tokenizer().save_pretrained(folder)


def _read_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer("the quick brown fox", add_special_tokens=True)


def _cached_tokens(folder: Path) -> None:
    write_tokens(folder / "tokens.safetensors", "key", torch.zeros(2, 8, dtype=torch.int64))


def _read_cache(folder: Path) -> None:
    read_tokens(folder / "tokens.safetensors", "key", (2, 8))


def _audit_result(folder: Path) -> None:
    from audit_results import result

    whole = result()
    small = {name: getattr(whole, name)[:8] for name in ("models", "rows", "absent", "items", "verdicts")}
    store.write_result(replace(whole, **small), folder / "results.json")


def _read_audit_result(folder: Path) -> None:
    store.result_to_dict(store.read_result(folder / "results.json"))


def _audit_folder(folder: Path) -> None:
    metric = Metric("es", "extraction", chance=0.1)
    found = [measurement(metric, "forget", {"a": 0.5, "b": 1.0}, texts=("x", "y")), Missing("tr", "retain", "no items")]
    with AuditFolder(folder) as audit:
        audit.begin({"seed": 0, "data": "tofu"}, overwrite=False)
        audit.prepared(dict)
        audit.save("orig_fp", "qa", "key", found)


def _read_audit_folder(folder: Path) -> None:
    with AuditFolder(folder) as audit:
        audit.begin({"seed": 0, "data": "tofu"}, overwrite=False)
        audit.load("orig_fp", "qa", "key")


def _unlearned(folder: Path) -> None:
    _json(folder / RECORD, {"method": "npo", "settings": {"steps": 3}})


TARGETS: dict[str, Target] = {
    "safetensors": Target(_single, ("*.safetensors",), _read_all),
    "shards": Target(_shards, ("*.json", "*.safetensors"), _read_all),
    "dense-config": Target(_tiny, ("config.json", "generation_config.json"), _dense),
    "dense-weights": Target(_tiny, ("*.safetensors",), _dense),
    "dense-quantise": Target(_tiny, ("config.json", "generation_config.json", "*.safetensors"), _quantise_dense),
    "gguf": Target(lambda folder: save_tiny_gguf(folder / "tiny.gguf"), ("tiny.gguf",), _unpack_gguf),
    "recipe": Target(_write_recipe, ("recipe.yaml",), _read_recipe),
    "resume": Target(_stopped, ("*.json", "*.safetensors"), _resume),
    "tokenizer": Target(_tokenizer, ("*.json",), _read_tokenizer),
    "tokens": Target(_cached_tokens, ("*.safetensors",), _read_cache),
    "audit-result": Target(_audit_result, ("*.json",), _read_audit_result),
    "audit-folder": Target(_audit_folder, ("*.json", "measured/*/*.json"), _read_audit_folder),
    "unlearned": Target(_unlearned, ("*.json",), read_record),
}


@cache
def targets() -> dict[str, Target]:
    """Every target by name; formats, sources and kinds of text are those that are registered."""
    found = dict(TARGETS)
    for name, form in FORMATS.items():
        for scheme in schemes(name):
            make = partial(_quantised, name, scheme)
            found[f"checkpoint-{name}-{scheme}"] = Target(make, ("config.json", "*.safetensors"), _load)
        if form.tables is not None:
            make = partial(_quantised, name, next(schemes(name)), embed_bits=8)
            found[f"tables-{name}"] = Target(make, ("config.json", "*.safetensors"), _load)
    for name, entry in source.SOURCES.items():
        if entry.needed:
            make, argument = KNOWLEDGE.get(name, KNOWLEDGE["jsonl"])
            found[f"knowledge-{name}"] = Target(make, ("*.*", "*/*.*"), partial(_knowledge, name, argument))
    for suffix in text.READERS:
        found[f"text{suffix}"] = Target(partial(_text, suffix), ("text.*",), partial(_read_text, suffix))
    return found
