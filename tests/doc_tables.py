"""The tables of the documentation that the program itself or its measurements write.

`python tests/doc_tables.py` writes them anew between their marks; tests/test_docs.py compares.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable
from itertools import product
from math import inf
from pathlib import Path

import torch

from omniq import recipes
from omniq.calibrate.method import METHODS
from omniq.formats.base import FORMATS, Format
from omniq.gguf.blocks import block_for, refusal
from omniq.recipe import Recipe, read_recipe
from omniq.spec import LinearSpec, QuantSpec, act_spec

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
QUALITY = ROOT / "benchmarks" / "results" / "quality.csv"

LAYER = (6144, 6144)
"""(N, K) of the layer that formats are asked about: every group below divides it."""
GROUPS = {16: "16", 32: "32", 64: "64", 128: "128", 256: "256", 48: "others", -1: "channel"}
RUNTIMES = ("transformers", "vLLM", "SGLang", "omniq")


def answers(form: Format, spec: LinearSpec) -> tuple[str, ...] | None:
    """What each of RUNTIMES answers, in few words; None where the format cannot hold the spec."""
    if form.refuse(spec, LAYER):
        return None
    said = dict(sentence.split(":", 1) for sentence in form.loaded_by(spec))
    short = {name.split(" (")[0]: shortened(text) for name, text in said.items()}
    return tuple(short[name] for name in RUNTIMES)


def shortened(answer: str) -> str:
    """'yes', 'no' or the like, and what a cell must not leave out: from which version on, and what is not computed."""
    since = re.search(r"\d+\.\d+ or later", answer)
    parts = [re.split(r"[,;.(]", answer)[0].strip(), *([since[0]] if since else [])]
    return ", ".join([*parts, *(["weights only"] if "leaves activations in floating point" in answer else [])])


def format_rows(name: str, form: Format) -> Iterable[tuple[str, ...]]:
    """Rows of the table of formats: bits, groups and activations that get the same answers share one."""
    cells: dict[tuple, list] = {}
    for symmetric, acts, bits, group in product((True, False), (16, 8, 4), range(2, 9), GROUPS):
        spec = LinearSpec(QuantSpec(bits, group, symmetric), act_spec(acts))
        if found := answers(form, spec):
            cells.setdefault((found, symmetric, acts, bits), []).append(GROUPS[group])
    for_bits = merged(
        (found, symmetric, acts, tuple(groups), bits) for (found, symmetric, acts, bits), groups in cells.items()
    )
    for_acts = merged(
        (found, symmetric, groups, bits, acts) for (found, symmetric, acts, groups), bits in for_bits.items()
    )
    for (found, symmetric, groups, bits), acts in for_acts.items():
        shown = "any" if len(groups) == len(GROUPS) else ", ".join(groups)
        grid = "symmetric" if symmetric else "asymmetric"
        yield (f"`{name}`", span(bits), shown, grid, " or ".join(map(str, acts)), *found)


def merged(rows: Iterable[tuple]) -> dict[tuple, tuple[int, ...]]:
    """Everything but the last of each row -> the last ones of all rows that are alike in it."""
    found: dict[tuple, tuple[int, ...]] = {}
    for *same, last in rows:
        found[tuple(same)] = (*found.get(tuple(same), ()), last)
    return found


def span(numbers: Iterable[int]) -> str:
    """[2, 3, 4, 5, 8] -> '2–5, 8'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def formats_table() -> str:
    """What every format holds, and who loads it."""
    rows = [row for name, form in FORMATS.items() for row in format_rows(name, form)]
    return table(("format", "weight bits", "groups", "grid", "activation bits", *RUNTIMES), rows)


def gguf_table() -> str:
    """The block that holds each grid exactly, for scales in bfloat16."""
    cells: dict[tuple, list] = {}
    for symmetric, bits, group in product((True, False), range(2, 9), GROUPS):
        spec = QuantSpec(bits, group, symmetric)
        if refusal(spec, LAYER[1]) is None:
            block = block_for(spec, LAYER[1], torch.bfloat16)
            grid = "symmetric" if symmetric else "asymmetric"
            cells.setdefault((grid, f"`{block.name}`", f"{block.bits_per_weight:g}", bits), []).append(GROUPS[group])
    rows = merged((*same, ", ".join(groups), bits) for (*same, bits), groups in cells.items())
    return table(
        ("weight bits", "groups", "grid", "block", "bits per weight in the file"),
        [(span(bits), groups, grid, block, stored) for (grid, block, stored, groups), bits in rows.items()],
    )


def measured(name: str, model: str = "smollm2") -> dict[str, str] | None:
    """The measurement of the recipe's scheme and preset with all its own options, the latest; None where there is none.

    The embedding table was in 16 bits in all of them.
    """
    recipe = Recipe.from_dict(read_recipe(recipes.file_of(name)))
    wanted = {"model": model, "scheme": recipe.label, "preset": recipe.preset, "options": "{}"}
    with QUALITY.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]
    rows = [row for row in rows if row["recipe"] in ("", "{}")]
    return next((row for row in reversed(rows) if row["calibration"] == "wikitext2-valid"), None)


def cells(row: dict[str, str] | None) -> tuple[str, ...]:
    """Sequences, bits per weight, KL, perplexity, agreement and minutes of one core, as the table shows them."""
    if row is None:
        return ("not measured", "", "", "", "", "")
    share = 100 * float(row["top1"])
    minutes = float(row["cpu_seconds"]) / 60
    bits, kl, ppl = (float(row[key]) for key in ("bits_per_weight", "kl", "ppl"))
    return (row["samples"], f"{bits:.2f}", f"{kl:.3f}", f"{ppl:.1f}", f"{share:.0f} %", f"{minutes:.1f}")


def tools_table() -> str:
    """omniq's presets and other tools at 4, 3 and 2 bits on the same model, tokens and texts; the least KL first.

    Symmetric; of a tool that has no such grid, what it has.
    """
    wanted = {"model": "smollm2", "calibration": "wikitext2-valid", "samples": "128", "recipe": "{}"}
    found: dict[str, dict[int, dict[str, str]]] = {}
    with QUALITY.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            spec = LinearSpec.parse(row["scheme"])
            if all(row[key] == value for key, value in wanted.items()) and spec.weight.group_size == 64 and named(row):
                of_tool = found.setdefault(named(row), {})
                if spec.weight.symmetric or spec.weight.bits not in of_tool:
                    of_tool[spec.weight.bits] = row
    order = sorted(
        found, key=lambda name: [float(found[name][b]["kl"]) if b in found[name] else inf for b in (3, 4, 2)]
    )
    lines = []
    for name in order:
        shown = [cell for bits in (4, 3, 2) for cell in tool_cells(found[name].get(bits), bits + 0.25)]
        minutes = [cells(found[name][bits])[5] for bits in (3, 4, 2) if bits in found[name]]
        lines.append((name, *shown, minutes[0]))
    heads = [head for bits in (4, 3, 2) for head in (f"{bits} bits", "other text")]
    return table(("tool", *heads, "minutes"), lines)


def tool_cells(row: dict[str, str] | None, bits: float) -> tuple[str, str]:
    """KL on both texts, with the bits per weight where they are not `bits`."""
    if row is None:
        return ("", "")
    found = float(row["bits_per_weight"])
    own = "" if found == bits else f" at {found:.2f} bits"
    return f"{float(row['kl']):.3f}{own}", f"{float(row['other_kl']):.3f}"


def named(row: dict[str, str]) -> str:
    """A preset of omniq, or another tool with its version and its number of steps; nothing for an ablation."""
    options = json.loads(row["options"])
    if row["preset"] in METHODS:
        return "" if options else f"omniq `{row['preset']}`"
    steps = f", {options['iters']} steps" if "iters" in options else ""
    return f"{row['preset']} {row['version'].partition(',')[0].rpartition(' ')[2]}{steps}"


def recipes_table() -> str:
    """Every recipe that comes with omniq, and what was measured of it."""
    rows = []
    for name in recipes.names():
        recipe = Recipe.from_dict(read_recipe(recipes.file_of(name)))
        rows.append((f"`{name}`", recipe.label, f"`{recipe.preset}`", *cells(measured(name))))
    settings, costs = ("recipe", "scheme", "preset", "sequences"), ("bits per weight", "KL", "perplexity")
    return table((*settings, *costs, "same first token", "minutes"), rows)


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- ", "|---").replace("---|", "---|") for line in lines)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "formats": ("formats.md", formats_table),
    "gguf": ("formats.md", gguf_table),
    "recipes": ("recipes.md", recipes_table),
    "tools": ("../README.md", tools_table),
}
"""Name of a table -> its page and what makes it."""


def marked(text: str, name: str) -> re.Match[str]:
    """The stretch of a page between the marks of a table; group 2 is the table."""
    return re.search(rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)", text, re.DOTALL)


def written(text: str, name: str, made: str) -> str:
    """The page with the table `made` between its marks."""
    found = marked(text, name)
    return f"{text[: found.start(2)]}{made}\n{text[found.end(2) :]}"


def main() -> None:
    """Writes every table anew."""
    for name, (page, make) in TABLES.items():
        path = DOCS / page
        path.write_text(written(path.read_text(encoding="utf-8"), name, make()), encoding="utf-8")


if __name__ == "__main__":
    main()
