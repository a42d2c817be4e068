"""Whether llama.cpp and transformers read a GGUF file of `omniq export` as the checkpoint it was made of.

    python benchmarks/gguf_check.py CHECKPOINT FILE.gguf --text wiki.test.raw --windows 16

FILE is exported if it is not there. Checked: the tokens of llama.cpp against those of transformers, on the text;
every weight that transformers' own GGUF reader makes against (q - z) * s; and, on the windows of `omniq eval`, the
perplexity of llama.cpp against omniq's with activations as they are, and the distance between the two. llama.cpp rounds
the input of a linear to 8 bits, so its figures differ; omniq with --activations int8 does the same, and shows by how
much that differs. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from llama_cpp import Llama
from torch import Tensor

from omniq import hf, runtime
from omniq.eval.base import Row, evaluate
from omniq.eval.windows import EvalSpec, protocol, windows
from omniq.exporting.origin import Origin
from omniq.exporting.run import export

PAGE = 50_000
"""Characters of the text whose tokens are compared."""
ODD = "x  y   z\n\n\n\tindent    four 12345 3.14 don't I'LL we've Ünïcödé 漢字かな 한국어 🙂 <table><tr>\r\n  end  "


def main() -> None:
    """Prints a line for each check; ends with an error where numbers that must be equal are not."""
    asked = arguments()
    hf.quiet()
    if not asked.file.exists():
        report = export(asked.checkpoint, asked.file, "gguf")
        print(f"exported: {report.size_before} -> {report.size_after} bytes, {report.seconds:.1f} s", *report.notes)
    origin, tokenizer = Origin(asked.checkpoint), hf.load_tokenizer(asked.checkpoint)
    text = asked.text.read_text(encoding="utf-8")
    llama = Llama(str(asked.file), n_ctx=asked.length, n_batch=asked.length, logits_all=True, verbose=False,
                  n_threads=asked.threads, n_threads_batch=asked.threads)  # fmt: skip
    for name, part in (("of the text", text[:PAGE]), ("of odd spaces, numbers and scripts", ODD)):
        check_tokens(llama, tokenizer, name, part)
    spec = EvalSpec(asked.text, asked.windows, asked.length)
    taken = windows(spec, tokenizer)
    print(protocol(spec, taken, tokenizer))
    exact = runtime.forward_of(runtime.load(asked.checkpoint))
    show("llama.cpp against omniq, exact activations", evaluate(exact, forward_of(llama), taken))
    if not asked.skip_int8:
        rounded = runtime.forward_of(runtime.load(asked.checkpoint, activations="int8"))
        show("omniq --activations int8 against exact", evaluate(exact, rounded, taken))
    del llama
    if not asked.skip_transformers:
        check_weights(origin, asked.file)


def check_tokens(llama: Llama, tokenizer, name: str, text: str) -> None:
    """The tokens of both, special ones around the text included."""
    theirs, ours = llama.tokenize(text.encode(), add_bos=True, special=True), tokenizer(text).input_ids
    if theirs != ours:
        first = next((i for i, pair in enumerate(zip(theirs, ours, strict=False)) if len(set(pair)) > 1), "the end")
        raise SystemExit(f"tokens {name} differ from number {first} on: llama.cpp {len(theirs)}, here {len(ours)}")
    print(f"tokens {name}: {len(ours)}, all equal")


def forward_of(llama: Llama) -> Callable[[Tensor], Tensor]:
    """ids (1, T) -> logits (1, T, V)."""

    def forward(ids: Tensor) -> Tensor:
        llama.reset()
        llama.eval(ids[0].tolist())
        return torch.from_numpy(llama.scores[: ids.shape[1]].copy()).unsqueeze(0)

    return forward


def show(what: str, rows: list[Row]) -> None:
    """One line of figures."""
    print(f"{what}: " + ", ".join(f"{row.metric} {row.value:.6g}" for row in rows), f"({rows[0].n} tokens)")


def check_weights(origin: Origin, file: Path) -> None:
    """Every linear that transformers makes of the file against the checkpoint's (q - z) * s."""
    packing = getattr(transformers, "GgufConfig", None)
    dense = {"quantization_config": packing(dequantize=True)} if packing else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True, **dense
    )
    for layer in origin.layers:
        if not torch.equal(model.get_submodule(layer.name).weight, origin.weight(layer).dequantize()):
            raise SystemExit(f"transformers reads {layer.name} as other numbers")
    packed = {*origin.stored_tables.parameters(), *(f"{layer.name}.weight" for layer in origin.layers)}
    for name in (name for name, _ in origin.model.skeleton.named_parameters() if name not in packed):
        if not torch.equal(model.get_parameter(name), origin.model.read(name).float()):
            worst = float((model.get_parameter(name) - origin.model.read(name).float()).abs().max())
            print(f"transformers reads {name} within {worst:.1e}")
    print(f"transformers {transformers.__version__} reads all {len(origin.layers)} linears as (q - z) * s, bit for bit")


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip-int8", action="store_true", help="leave omniq's own rounded activations out")
    parser.add_argument("--skip-transformers", action="store_true", help="leave transformers' reader out")
    return parser.parse_args()


if __name__ == "__main__":
    main()
