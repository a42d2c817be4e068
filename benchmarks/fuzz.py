"""Damaged files of every kind omniq reads, for as long as wanted: each is read, or refused in a sentence.

    python benchmarks/fuzz.py --minutes 10 --seed 0

Every case damages good files by its seed (tests/damage.py) and reads them (tests/hostile.py) in a process of its own,
within limits of time and memory (tests/confined.py). A new kind of failure is printed with the command that shows it
again; the exit code is 1 when there was one. The targets take turns. `--target NAME` picks one, `--cases N` runs so
many cases of each instead of going by the clock, `--list` names the targets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from confined import Outcome, confined
from hostile import Case, targets

TURN = 40
"""Cases of one target before the next one's turn."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    parser.add_argument("--cases", type=int, help="cases of each target, instead of --minutes")
    parser.add_argument("--target", nargs="+", choices=[*targets()], metavar="NAME", help="only these; --list has them")
    parser.add_argument("--list", action="store_true", help="name the targets and end")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    return parser.parse_args()


def outcomes(names: list[str], args: argparse.Namespace, root: Path) -> Iterator[tuple[str, Outcome]]:
    """(target, how a case ended) until the time or the cases are over; the targets take turns."""
    cases = {name: Case(name, root / name) for name in names}
    until, seed = time.monotonic() + 60 * args.minutes, args.seed
    last = None if args.cases is None else args.seed + args.cases
    while seed != last if last is not None else time.monotonic() < until:
        turn = TURN if last is None else min(TURN, last - seed)
        for name, case in cases.items():
            for outcome in confined(case, range(seed, seed + turn)):
                yield name, outcome
                if last is None and time.monotonic() > until:
                    return
        seed += turn


def shown(name: str, outcome: Outcome) -> str:
    """A case in words, and the command that shows it again."""
    command = f"python benchmarks/fuzz.py --target {name} --seed {outcome.seed} --cases 1"
    return f"{name}: {outcome.kind} after {outcome.seconds:.1f} s, {outcome.bytes / 2**20:.0f} MB\n    {command}"


def main() -> None:
    """Runs the cases and prints what was found."""
    args = arguments()
    if args.list:
        print("\n".join(targets()))
        return
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="omniq-fuzz-") as folder:
        for name, outcome in outcomes(args.target or [*targets()], args, Path(folder)):
            found[name, outcome.kind] += 1
            if args.verbose or (not outcome.good and found[name, outcome.kind] == 1):
                print(f"{shown(name, outcome)}\n{outcome.text}\n", flush=True)
    for (name, kind), count in sorted(found.items()):
        print(f"{count:7d}  {name}  {kind}")
    sys.exit(any(kind not in ("ok", "refused") for _, kind in found))


if __name__ == "__main__":
    main()
