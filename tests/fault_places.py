"""Where faults are tried: a model, a text, jobs over them, and what an undisturbed run of each job makes."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from kills import CODES, Ended, Moment, Runs
from subjects import QUICK
from tiny import save_text, save_tiny

DATA = ("--calib", "{root}/text.txt", "--samples", "4", "--length", "24")
SCHEME = ("--wbits", "3", "--group-size", "16")
VOLATILE = ("README.md", "report.json", "report.html", "metrics.jsonl")
"""Files that say how long the work took."""
FINISHED = re.compile(r"(block-\d+|tables|allocation|tuned)\.safetensors$")
"""Finished work: whoever finds such a file must not do it again."""
PROMPT = 10.0
"""Seconds within which a signal must have been answered, on a machine that does other work too."""


@dataclass(frozen=True)
class Job:
    """A command that makes `out`, a name below the place; {root} and {out} in its words stand for the two paths."""

    name: str
    words: tuple[str, ...]
    out: str = "out"

    def command(self, root: Path, out: Path | None = None) -> list[str]:
        """The words for a place, and for another output than its own."""
        return [word.format(root=root, out=out or root / self.out) for word in self.words]


def quantizing(name: str, *words: str) -> Job:
    """A quantisation of the place's model."""
    return Job(name, ("quantize", "{root}/model", "-o", "{out}", *DATA, *words))


def exporting(name: str, out: str = "out") -> Job:
    """An export of the place's checkpoint."""
    return Job(f"export {name}", ("export", "{root}/checkpoint", "--format", name, "-o", "{out}"), out)


def sets(preset: str) -> list[str]:
    """Options that make a preset quick."""
    return [word for name, value in QUICK[preset].items() for word in ("--set", f"{name}={value}")]


JOBS = {
    job.name: job
    for job in (
        *(quantizing(preset, *SCHEME, "--preset", preset, *sets(preset)) for preset in QUICK),
        quantizing("mixed", "--avg-bits", "3", "--group-size", "16", "--preset", "gptq"),
        quantizing("tables", *SCHEME, "--preset", "gptq", "--embed-bits", "8"),
        quantizing("w4a4", "--wbits", "4", "--abits", "4", "--group-size", "16", "--preset", "fast", *sets("fast")),
        quantizing("eval", *SCHEME, "--preset", "rtn", "--eval", "{root}/text.txt", "--eval-windows", "2",
                   "--eval-length", "24"),
        exporting("gptq"), exporting("dense"), exporting("gguf", "out.gguf"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """An undisturbed run of a job, and a digest of every file it made but those that tell the time."""

    ended: Ended
    bits: dict[str, str]


@dataclass
class Tally:
    """What became of the runs of one case. wrong: a sentence for everything that must not happen."""

    faults: int = 0
    runs: int = 0
    identical: int = 0
    sentences: int = 0
    redone: int = 0
    unseen: int = 0
    slowest: float = 0.0
    where: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Place:
    """A folder with a model, a text and a quantised checkpoint, in which one job at a time is tried."""

    def __init__(self, root: Path, model: Path | None = None, text: Path | None = None) -> None:
        """model, text: a real model and a text for it, else tiny ones are made."""
        self.root, self.runs = root, Runs(root)
        if model is None or text is None:
            save_tiny("llama", root / "model")
            save_text(root / "text.txt")
        else:
            shutil.copytree(model, root / "model")
            shutil.copyfile(text, root / "text.txt")
        self._wholes: dict[str, Whole] = {}

    def whole(self, job: Job, **how: object) -> Whole:
        """What an undisturbed run makes; the first time it is made."""
        if job.name not in self._wholes:
            if job.words[0] == "export" and not (self.root / "checkpoint").is_dir():
                self._checked(self._checkpoint())
            self.clear(job)
            self._checked(job.command(self.root), **how)  # leaves the tokens in the cache
            self.clear(job)
            ended = self._checked(job.command(self.root), **how)
            self._wholes[job.name] = Whole(ended, bits(self.root / job.out))
        self.clear(job)
        return self._wholes[job.name]

    def _checkpoint(self) -> list[str]:
        """The command that makes the checkpoint for exports, in a dtype whose scales every layout holds."""
        half, out = save_tiny("llama", self.root / "half", torch.float16), self.root / "checkpoint"
        return ["quantize", str(half), "-o", str(out), "--wbits", "4", "--group-size", "32", "--preset", "rtn"]

    def folder(self, name: str) -> Path:
        """An empty folder in the place."""
        (self.root / name).mkdir()
        return self.root / name

    def adopt(self, job: Job, whole: Whole) -> None:
        """Takes what another job made for what this one has to make."""
        self._wholes[job.name] = whole

    def _checked(self, words: Sequence[str], **how: object) -> Ended:
        ended = self.runs.run(words, **how)
        if ended.code:
            raise RuntimeError(f"an undisturbed run fails: omniq {' '.join(words)}\n{ended.said}")
        return ended

    def clear(self, job: Job) -> None:
        """Removes what the job has made or begun."""
        remove(self.root / job.out)
        remove(self.work(job))

    def work(self, job: Job) -> Path:
        """The folder of the job's unfinished run."""
        out = self.root / job.out
        return out.with_name(f".{out.name}.omniq")

    def finished(self, job: Job) -> set[str]:
        """Paths, below the place, of the finished work that an unfinished run holds."""
        files = self.work(job).glob("*") if self.work(job).is_dir() else ()
        return {str(file.relative_to(self.root)) for file in files if FINISHED.search(file.name)}

    def tried(self, job: Job, tally: Tally, moment: Moment | None = None, more: Sequence[str] = (), **how) -> Ended:
        """One run of the job in which something may go wrong, and its part of the tally.

        more: words that ask for a new beginning, which may do everything again.
        """
        before = self.finished(job)
        ended = self.runs.run([*job.command(self.root), *more], moment, **how)
        tally.runs += 1
        again = [] if more else sorted({t.name for t in ended.touches if t.verb == "rename"} & before)
        tally.redone += len(again)
        if again:
            tally.wrong.append(f"{job.name}: finished work was done again: {', '.join(again)}")
        lost = before - self.finished(job)
        if lost and not (self.root / job.out).exists():
            tally.wrong.append(f"{job.name}: finished work was lost: {', '.join(sorted(lost))}")
        return ended

    def other_bits(self, job: Job) -> list[str]:
        """The files in which the output is not what an undisturbed run makes."""
        made, whole = bits(self.root / job.out), self._wholes[job.name].bits
        return sorted(name for name in made.keys() | whole.keys() if made.get(name) != whole.get(name))

    def over(self, job: Job, tally: Tally, ended: Ended, after: str = "") -> None:
        """Notes down whether a run that nothing disturbed any more ended with the bits of an undisturbed one.

        after: what disturbed it before, in words.
        """
        if ended.code or ended.said.count("omniq: "):
            tally.wrong.append(f"{job.name}: exit code {ended.code}: {ended.said[-600:]}")
        else:
            self.undisturbed(job, tally, after)

    def undisturbed(self, job: Job, tally: Tally, after: str = "") -> None:
        """Notes down whether the output has the bits of an undisturbed run, and nothing lies beside it."""
        if other := self.other_bits(job):
            tally.wrong.append(f"{job.name}: other bits than those of an undisturbed run in {other}{after}")
        elif self.work(job).exists():
            tally.wrong.append(f"{job.name}: {self.work(job).name} was left behind")
        else:
            tally.identical += 1

    def stopped(self, job: Job, tally: Tally, ended: Ended, moment: Moment) -> None:
        """Notes down whether a run that a signal ended said so, with the right code, at once."""
        tally.faults += 1
        tally.where[ended.stage] += 1
        tally.slowest = max(tally.slowest, ended.answered or 0.0)
        place = f"{job.name}: {moment.signal.name} while {ended.stage}, at {moment}"
        # While Python itself ends, after all is done, a signal is answered as the system does.
        late = ended.code == -moment.signal and (self.root / job.out).exists() and "Traceback" not in ended.said
        if late:
            return
        if ended.code != CODES[moment.signal]:
            tally.wrong.append(f"{place}: exit code {ended.code}: {ended.said[-600:]}")
        elif ended.code > 0 and "interrupted" not in (ended.sentence or ""):
            tally.wrong.append(f"{place}: no sentence: {ended.said[-600:]}")
        elif (ended.answered or 0.0) > PROMPT:
            tally.wrong.append(f"{place}: took {ended.answered:.1f} s to end")
        else:
            tally.sentences += ended.code > 0

    def refused(self, job: Job, tally: Tally, ended: Ended, codes: Sequence[int], word: str = "") -> bool:
        """Whether a run ended with one sentence, which has this word, and with one of these codes."""
        if ended.sentence is None or ended.code not in codes or not re.search(word, ended.sentence):
            tally.wrong.append(f"{job.name}: exit code {ended.code} where {word!r} was due: {ended.said[-900:]}")
            return False
        tally.sentences += 1
        return True


def bits(path: Path) -> dict[str, str]:
    """A digest of every file of an output that does not tell the time."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    kept = [file for file in files if file.name not in VOLATILE]
    return {file.name: hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in kept}


def remove(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
