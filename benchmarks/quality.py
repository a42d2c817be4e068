"""Quality of omniq's presets and of other tools, side by side: perplexity, KL, cost, size; one CSV row per run.

    python benchmarks/quality.py --data shared/data --smollm2 models/smollm2 --gemma3 models/gemma3 --peers ENVS

Every method gets the same calibration tokens and is evaluated by the same code on the same windows of two texts.
Goes on where it was cut short: a row whose settings are in the CSV already is not run again. Every row runs in a
process of its own, so that its peak memory is its own. Peers run in environments of their own, which
`python benchmarks/peers/install.py ENVS` makes; those that are not there are named and left out. `--table` only
prints the tables, `--plot` only draws them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from peers.registry import module, python
from quality_report import draw, table
from quality_rows import TEXTS, Run, keep, missing, read_rows, run_of, runs

MODELS = ("smollm2", "gemma3")


def chosen(args: argparse.Namespace) -> list[Run]:
    """The rows that the arguments ask for and that can be run here; what is left out is printed once."""
    rows, left = [], {}
    for run in runs():
        wanted = getattr(args, run.model) and run.calibration in args.calibration
        if wanted and all(text in run.key() for text in args.only):
            reason = refused(run, args.peers) if run.of_peer else None
            if reason:
                left[run.preset, run.scheme.endswith("-asym")] = reason
            else:
                rows.append(run)
    for (name, _), reason in left.items():
        print(f"left out: {name}: {reason}", flush=True)
    return rows


def refused(run: Run, peers: Path | None) -> str | None:
    """Why a peer's row cannot be run, or None."""
    from omniq.spec import LinearSpec

    if peers is None:
        return "give the folder of its environment with --peers"
    if not python(peers, run.preset).is_file():
        return f"{peers} holds no environment for it; python benchmarks/peers/install.py makes it"
    return module(run.preset).refuse(LinearSpec.parse(run.scheme).weight)


def run_row(run: Run, args: argparse.Namespace) -> None:
    """One row in a process of its own; ends the script where it fails."""
    command = [sys.executable, __file__, "--row", run.key()]
    for name in ("data", "other_text", "peers", run.model):
        if getattr(args, name):
            command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    print(f"{run.model} {run.scheme} {run.preset} {run.options} {run.calibration} {run.samples} ...", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the row failed with exit code {done.returncode}; run the script again to go on")
    facts = json.loads(done.stdout.splitlines()[-1])
    keep(run, facts)
    print(
        f"  KL {facts['kl']:.4f}, perplexity {facts['ppl']:.2f}, {facts['cpu_seconds']:.0f} CPU s, "
        f"{facts['bits_per_weight']:.3f} bits",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder with wikitext-2/ (wiki.test.raw, wiki.valid.clean.txt), tofu/"
    )
    parser.add_argument("--smollm2", type=Path, help="model folder made by: omniq fetch-demo FOLDER")
    parser.add_argument("--gemma3", type=Path, help="model folder made by: omniq fetch-demo FOLDER --model gemma3")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument(
        "--other-text",
        type=Path,
        help="text of another kind to evaluate on, too, or JSON of questions and answers (default: tofu/forget10.json)",
    )
    texts = ("self", *TEXTS)
    parser.add_argument("--calibration", nargs="+", choices=texts, default=texts, help="rows calibrated on these alone")
    parser.add_argument("--only", nargs="+", default=[], help="only rows whose settings contain all these texts")
    parser.add_argument("--list", action="store_true", help="print the rows that would be run")
    parser.add_argument("--row", help="run this one row and print its facts as JSON (used by the script itself)")
    parser.add_argument("--table", action="store_true", help="print the tables of what was measured")
    parser.add_argument("--plot", type=Path, help="draw KL against bits per weight into this PNG file")
    return parser.parse_args()


def main() -> None:
    """Runs what is missing, row by row."""
    args = arguments()
    if args.row:
        from quality_measure import row

        run = Run(**json.loads(args.row))
        other = args.other_text or args.data / "tofu" / "forget10.json"
        print(json.dumps(row(run, getattr(args, run.model), args.data, other, args.peers)))
        return
    if not (args.table or args.plot):
        if args.data is None and not args.list:
            sys.exit("the texts are missing: give their folder with --data")
        for run in missing(chosen(args)):
            if args.list:
                print(run.key())
            else:
                run_row(run, args)
    found = [row for row in read_rows() if all(text in run_of(row).key() for text in args.only)]
    if args.plot:
        draw(found, args.plot)
    elif not args.list:
        print(table(found))


if __name__ == "__main__":
    main()
