"""Tables and plots of benchmarks/results/knowledge.csv, which benchmarks/knowledge.py writes.

python benchmarks/knowledge_report.py --plot docs/pictures
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CSV = Path(__file__).resolve().parent / "results" / "knowledge.csv"
PRESETS = {"rtn": "#8a8a8a", "gptq": "#c77c11", "awq": "#2a7f62", "omniquant": "#3553a4"}
FACTS = (("facts", "", "contains"), ("facts", "", "mc_acc"), ("world", "real_authors", "mc_acc"),
         ("world", "world_facts", "mc_acc"), ("world", "world_facts", "rouge_recall"))  # fmt: skip
PANELS = (("facts", "", "contains", "facts: answer written"),
          ("facts", "", "mc_acc", "facts: right one chosen"),
          ("world", "world_facts", "rouge_recall", "TOFU world facts: ROUGE-L recall"))  # fmt: skip
SHOWN = "rouge_recall"

Rows = list[dict[str, str]]


def found(rows: Rows, **wanted: Any) -> Rows:
    """The rows whose cells are the wanted ones."""
    return [row for row in rows if all(row[name] == str(value) for name, value in wanted.items())]


def number(row: dict[str, str], name: str) -> float:
    """A cell as a number, NaN where it is empty."""
    return float(row[name] or "nan")


def cell(row: dict[str, str] | None, name: str, low: str, high: str) -> str:
    """'0.41 [0.30, 0.52]', or N/A."""
    if row is None or not row[name]:
        return "N/A"
    return f"{number(row, name):.2f} [{number(row, low):.2f}, {number(row, high):.2f}]"


def first(rows: Rows) -> dict[str, str] | None:
    """The first row, None where there is none."""
    return rows[0] if rows else None


def fact_tables(rows: Rows) -> Iterator[str]:
    """What survives, a table for each metric: presets by bits."""
    for audit, attribute, metric in FACTS:
        mine = found(rows, audit=audit, attribute=attribute, metric=metric, split="world")
        original = first(found(mine, role="orig_fp"))
        if original is None:
            continue
        what = " ".join(filter(None, (audit, attribute, metric)))
        chance = f", chance {number(original, 'chance'):.2f}" if original["chance"] else ""
        yield f"\n{what}, {original['n']} questions{chance}; original {cell(original, 'value', 'ci_lo', 'ci_hi')}\n"
        bits = sorted({int(row["bits"]) for row in mine if row["role"] == "orig_q"}, reverse=True)
        yield "| preset | " + " | ".join(f"W{count}" for count in bits) + " |"
        yield "|---|" + "---|" * len(bits)
        for preset in PRESETS:
            cells = [first(found(mine, role="orig_q", method=preset, bits=count)) for count in bits]
            yield f"| {preset} | " + " | ".join(cell(one, "value", "ci_lo", "ci_hi") for one in cells) + " |"


def unlearned_tables(rows: Rows) -> Iterator[str]:
    """Whether something came back, a table for each unlearning method."""
    for audit in dict.fromkeys(row["audit"] for row in rows if row["role"] == "unl_q"):
        mine = found(rows, audit=audit, split="forget", metric=SHOWN, attribute="")
        before, after = first(found(mine, role="orig_fp")), first(found(mine, role="unl_fp"))
        yield f"\n{audit}: ROUGE-L recall on {before['n']} forgotten questions: original "
        yield f"{cell(before, 'value', 'ci_lo', 'ci_hi')}, unlearned {cell(after, 'value', 'ci_lo', 'ci_hi')}\n"
        yield "| preset | bits | unlearned and quantised | control | recovered share | state | effect |"
        yield "|---|---|---|---|---|---|---|"
        for row in found(mine, role="unl_q"):
            control = first(found(mine, role="orig_q", method=row["method"], bits=row["bits"]))
            share = cell(row, "recovered_share", "recovered_share_lo", "recovered_share_hi")
            values = [cell(one, "value", "ci_lo", "ci_hi") for one in (row, control)]
            yield "| " + " | ".join([row["method"], row["bits"], *values, share, row["state"], row["effect"]]) + " |"


def draw_facts(rows: Rows, path: Path) -> None:
    """Share of questions answered against bits, one line a preset, with intervals; one panel a metric."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(10, 3.2), sharey=True, layout="constrained")
    for panel, (audit, attribute, metric, title) in zip(panels, PANELS, strict=True):
        mine = found(rows, audit=audit, attribute=attribute, metric=metric, split="world")
        places = {str(count): at for at, count in enumerate((16, 8, 4, 3, 2))}
        original = found(mine, role="orig_fp")
        for shift, (preset, colour) in enumerate(PRESETS.items()):
            made = found(mine, role="orig_q", method=preset)
            points = original + sorted(made, key=lambda row: places[row["bits"]])
            x = [places[row["bits"]] + (shift - 1.5) * 0.07 for row in points]
            y = [number(row, "value") for row in points]
            spread = [[number(row, "value") - number(row, "ci_lo") for row in points],
                      [number(row, "ci_hi") - number(row, "value") for row in points]]  # fmt: skip
            panel.errorbar(
                x, y, spread, color=colour, marker="o", markersize=3.5, linewidth=1.2, capsize=2, label=preset
            )
        if original and original[0]["chance"] and number(original[0], "chance"):
            panel.axhline(number(original[0], "chance"), color="#555555", linewidth=0.8, linestyle=":")
            panel.text(1.6, number(original[0], "chance") - 0.055, "chance", fontsize=8, color="#555555")
        panel.set_title(title, fontsize=9)
        panel.set_xticks(range(len(places)), places)
        panel.set_xlabel("bits of a weight")
        panel.set_ylim(0, 1.04)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share of questions, recall")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def draw_unlearned(rows: Rows, path: Path) -> None:
    """ROUGE of forgotten answers: original, unlearned, and quantised after it; one panel an unlearning method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["audit"] for row in rows if row["role"] == "unl_q"))
    figure, panels = pyplot.subplots(
        1, len(names), figsize=(2.6 * len(names), 3.2), sharey=True, layout="constrained", squeeze=False
    )
    for panel, name in zip(panels[0], names, strict=True):
        mine = found(rows, audit=name, split="forget", metric=SHOWN, attribute="")
        before, after = first(found(mine, role="orig_fp")), first(found(mine, role="unl_fp"))
        panel.axhline(number(before, "value"), color="#222222", linewidth=1, linestyle="--", label="original")
        panel.axhline(number(after, "value"), color="#b03030", linewidth=1, label="unlearned")
        panel.axhspan(number(after, "ci_lo"), number(after, "ci_hi"), color="#b03030", alpha=0.1, linewidth=0)
        for shift, (preset, colour) in enumerate(PRESETS.items()):
            points = found(mine, role="unl_q", method=preset)
            x = [{"8": 0, "4": 1, "3": 2}[row["bits"]] + (shift - 1.5) * 0.13 for row in points]
            y = [number(row, "value") for row in points]
            spread = [[number(row, "value") - number(row, "ci_lo") for row in points],
                      [number(row, "ci_hi") - number(row, "value") for row in points]]  # fmt: skip
            panel.errorbar(
                x, y, spread, color=colour, marker="o", markersize=3.5, linestyle="", capsize=2, label=preset
            )
        panel.set_title(name, fontsize=9)
        panel.set_xticks(range(3), ("8", "4", "3"))
        panel.set_xlabel("bits of a weight")
        panel.set_ylim(0, 1.04)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("ROUGE-L recall, forgotten questions")
    panels[0][0].legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Prints the tables; draws the plots where a folder is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="folder for knowledge_facts.png and knowledge_unlearned.png")
    args = parser.parse_args()
    with CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    print("\n".join([*fact_tables(rows), *unlearned_tables(rows)]))
    if args.plot:
        args.plot.mkdir(parents=True, exist_ok=True)
        draw_facts(rows, args.plot / "knowledge_facts.png")
        draw_unlearned(rows, args.plot / "knowledge_unlearned.png")


if __name__ == "__main__":
    main()
