"""Kinds of faults, each a function of a place, a job, a number of faults and a source of chance, that gives a Tally."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random

from fault_doubles import FlipOnRead, Reads, SmallFiles, without_privilege
from fault_places import FINISHED, Job, Place, Tally, remove
from hub_double import NAME, Hub
from kills import Moments

UNFINISHED = ("calibrating", "storing", "writing", "verifying", "telling")
"""Stages in which there is something to go on from."""
NO_ROOM = "disk is full|No space left|File too large"


def kills(place: Place, job: Job, count: int, random: Random, fresh: bool = False) -> Tally:
    """Signals at any moment; each time the same command goes on, until it is done."""
    moments, tally = Moments(place.whole(job, fresh=fresh).ended, random), Tally()
    while tally.faults < count:
        place.clear(job)
        _killed_until_done(place, job, count, moments, tally, fresh)
    return tally


def _killed_until_done(place: Place, job: Job, count: int, moments: Moments, tally: Tally, fresh: bool) -> None:
    while True:
        moment = moments.draw() if tally.faults < count else None
        ended = place.tried(job, tally, moment, fresh=fresh)
        if ended.answered is None or ended.code == 0:
            return place.over(job, tally, ended)
        place.stopped(job, tally, ended, moment)
        if (place.root / job.out).exists():
            # Over but for the cleaning up: the result is there, and the same command says so.
            again = place.tried(job, tally)
            place.refused(job, tally, again, (7,), "not empty|exists")
            return place.undisturbed(job, tally)


def fresh_kills(place: Place, job: Job, count: int, random: Random) -> Tally:
    """The same with new interpreters, from their start to their end."""
    return kills(place, job, count, random, fresh=True)


def _interrupted(place: Place, job: Job, tally: Tally, moments: Moments) -> bool:
    """Leaves an unfinished run of the job that has finished something; False when it came to its end."""
    place.clear(job)
    while not place.finished(job):
        ended = place.tried(job, tally, moments.draw((signal.SIGKILL,), UNFINISHED))
        if ended.code == 0 or (place.root / job.out).exists():
            return False
    return True


def flips_in_state(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A bit of an unfinished run's files: refused with a sentence, or without effect; --overwrite starts anew."""
    moments, tally = Moments(place.whole(job).ended, random), Tally()
    while tally.faults < count:
        if not _interrupted(place, job, tally, moments):
            continue
        files = sorted(f for f in place.work(job).iterdir() if f.is_file() and f.stat().st_size)
        file = random.choice([f for f in files if not f.name.endswith(".tmp")])
        flip(file, random)
        tally.faults += 1
        tally.where[FINISHED.sub(lambda m: m[1].split("-")[0], file.name)] += 1
        ended = place.tried(job, tally)
        if ended.code == 0:
            place.over(job, tally, ended)
            tally.unseen += 1
        elif place.refused(job, tally, ended, (7,), rf"{file.name} is damaged|other settings"):
            place.over(job, tally, place.tried(job, tally, more=("--overwrite",)))
    return tally


def flips_in_input(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A bit of the model or the text between interruption and resumption: refused; put right, the run goes on."""
    moments, tally = Moments(place.whole(job).ended, random), Tally()
    files = [place.root / "text.txt", *sorted((place.root / "model").iterdir())]
    files = [file for file in files if file.name != "README.md"]
    while tally.faults < count:
        if not _interrupted(place, job, tally, moments):
            continue
        file = random.choice(files)
        intact, what = file.read_bytes(), flip(file, random)
        tally.faults += 1
        ended = place.tried(job, tally)
        file.write_bytes(intact)
        if ended.code:
            place.refused(job, tally, ended, (2, 3, 4, 5, 7))
            tally.where[f"{what} refused"] += 1
            place.over(job, tally, place.tried(job, tally))
            continue
        # What decides nothing, such as a name in a config, may change; it is copied as it was found.
        tally.unseen += 1
        tally.where[f"{what} without effect on weights"] += 1
        if file.suffix == ".safetensors" or "model.safetensors" in place.other_bits(job):
            tally.wrong.append(f"{job.name}: a bit of {file.name} was changed before the run went on, unseen")
        else:
            tally.identical += 1
    return tally


def flips_before_reading_back(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A bit of the finished weights between their writing and their being read back: nothing is published."""
    place.whole(job)
    tally = Tally()
    for _ in range(count):
        place.clear(job)
        fault = FlipOnRead(str(place.root / place.work(job).name / "result"), random.random(), random.randrange(8))
        ended = place.tried(job, tally, fault=fault)
        tally.faults += 1
        if ended.code == 0:
            tally.wrong.append(f"{job.name}: published with a bit that was not computed ({fault})")
        elif place.refused(job, tally, ended, (3, 6)):
            place.over(job, tally, place.tried(job, tally))
    return tally


def flips_in_output(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A bit of a published checkpoint: what loading it sees, and what only its sums show, which miss none."""
    place.whole(job)
    place.runs.run(job.command(place.root))
    tally, file = Tally(), place.root / job.out / "model.safetensors"
    intact = file.read_bytes()
    for _ in range(count):
        what = flip(file, random)
        ended = place.runs.run(["generate", str(place.root / job.out), "a model", "--max-new-tokens", "1"])
        tally.faults, tally.runs = tally.faults + 1, tally.runs + 2
        if ended.code == 0:
            tally.unseen += 1
        else:
            place.refused(job, tally, ended, (3, 5))
        tally.where[f"{what} {'refused' if ended.code else 'loaded'}"] += 1
        place.refused(job, tally, place.runs.run(["info", str(place.root / job.out), "--verify"]), (6,), "changed")
        file.write_bytes(intact)
    return tally


def full_disk(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A disk of a random size, too small for the work: a sentence; with more room the run goes on."""
    disk = place.root / "disk"
    inside = Job(f"{job.name} on a disk", job.words, f"disk/{job.out}")
    whole, tally = place.whole(job), Tally()
    disk.mkdir(exist_ok=True)
    place.adopt(inside, whole)
    while tally.faults < count:
        pages = random.randrange(2, 160)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "tmpfs", str(disk)], check=True)
        try:
            _until_room(place, inside, tally, pages, str(disk))
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return tally


def _until_room(place: Place, job: Job, tally: Tally, pages: int, disk: str) -> None:
    """Runs the job on a disk that is given more room after every failure."""
    while (ended := place.tried(job, tally)).code:
        tally.faults += 1
        tally.where[ended.stage] += 1
        if not place.refused(job, tally, ended, (7,), NO_ROOM) or (place.root / job.out).exists():
            return
        pages += 24
        subprocess.run(["mount", "-o", f"remount,size={pages * 4096}", disk], check=True)
    place.over(job, tally, ended)


def small_files(place: Place, job: Job, count: int, random: Random) -> Tally:
    """No file may be longer than a random number of bytes: a sentence; without the limit the run goes on."""
    whole = place.whole(job)
    largest = max(file.stat().st_size for file in (place.root / "model").iterdir())
    tally = Tally()
    while tally.faults < count:
        place.clear(job)
        ended = place.tried(job, tally, fault=SmallFiles(int(largest ** random.random()) + 512))
        if ended.code:
            tally.faults += 1
            tally.where[ended.stage] += 1
            place.refused(job, tally, ended, (7,), NO_ROOM)
            ended = place.tried(job, tally)
        place.over(job, tally, ended)
    assert whole.bits
    return tally


def failing_reads(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A read that fails, or a file that ends early: a sentence; once it can be read, the run goes on."""
    return _with_reads(place, job, count, random, ("fails", "ends"))


def short_reads(place: Place, job: Job, count: int, random: Random) -> Tally:
    """Reads that give fewer bytes than were asked for, as they may: without effect."""
    return _with_reads(place, job, count, random, ("short",))


def _with_reads(place: Place, job: Job, count: int, random: Random, kinds: tuple[str, ...]) -> Tally:
    total = sum(touch.verb == "open" and touch.mode[:1] == "r" for touch in place.whole(job).ended.touches)
    tally = Tally()
    while tally.faults < count:
        place.clear(job)
        fault = Reads(str(place.root), random.choice(kinds), random.randrange(2 * total), random.randrange(2**32))
        ended = place.tried(job, tally, fault=fault)
        tally.faults += 1
        tally.where[f"{fault.kind}, {ended.stage}{'' if ended.code else ' (without effect)'}"] += 1
        if ended.code and place.refused(job, tally, ended, (3, 4, 6, 7)):
            ended = place.tried(job, tally)
        if ended.code == 0:
            place.over(job, tally, ended, f" after {fault}")
    return tally


def two_jobs(place: Place, job: Job, count: int, random: Random) -> Tally:
    """A second command on the output of one that runs, at any moment: refused, and the first is not disturbed."""
    moments, tally = Moments(place.whole(job).ended, random), Tally()
    for number in range(count):
        place.clear(job)
        moment = moments.draw(among=("beginning", *UNFINISHED))
        first = place.runs.start(job.command(place.root))
        first.until(moment)
        more = ("--overwrite",) if number % 2 and not place.work(job).exists() else ()
        second = place.runs.run([*job.command(place.root), *more])
        tally.faults += 1
        tally.runs += 2
        place.refused(job, tally, second, (7,), "another omniq process|not empty|exists")
        place.over(job, tally, first.finish())
    return tally


def read_only(place: Place, job: Job, count: int, random: Random) -> Tally:
    """The work folder made read-only at any moment: a sentence; writable again, the run goes on."""
    moments, tally = Moments(place.whole(job).ended, random), Tally()
    while tally.faults < count:
        place.clear(job)
        moment = moments.draw(among=UNFINISHED)
        started = place.runs.start(job.command(place.root), fault=without_privilege)
        if started.until(moment) and place.work(job).exists():
            _closed(place.work(job), True)
        ended = started.finish()
        tally.runs += 1
        if ended.code:
            tally.faults += 1
            tally.where[ended.stage] += 1
            place.refused(job, tally, ended, (7,))
            place.refused(job, tally, place.tried(job, tally, fault=without_privilege), (7,))
            _closed(place.work(job), False)
            ended = place.tried(job, tally, fault=without_privilege)
        elif place.work(job).exists():
            # Closed after the result was moved, so that the rest could not be removed: the next command does that.
            _closed(place.work(job), False)
            place.refused(job, tally, place.tried(job, tally), (7,), "not empty")
        place.over(job, tally, ended)
    return tally


def _closed(folder: Path, closed: bool) -> None:
    """Takes the permission to write from a folder, or gives it back."""
    for path in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        path.chmod(0o555 if closed else 0o755)


def hub_reads(place: Place, job: Job, count: int, random: Random) -> Tally:
    """The network removed while the model is fetched: a sentence, also while it stays away; once it is back, done."""
    words = tuple(word.replace("{root}/model", NAME) for word in job.words)
    fetched, tally = Job(f"{job.name} from the hub", words, job.out), Tally()
    size = sum(path.stat().st_size for path in (place.root / "model").iterdir())
    with Hub(place.root / "model") as hub:
        place.whole(fetched, fresh=True, env=hub.env(place.root / "hub"))
        for number in range(count):
            place.clear(fetched)
            how = {"fresh": True, "env": hub.env(place.root / f"hub-{number}")}
            hub.left = random.randrange(size)
            ended = place.tried(fetched, tally, **how)
            tally.faults += 1
            place.refused(fetched, tally, ended, (3, 10), "hub")
            place.refused(fetched, tally, place.tried(fetched, tally, **how), (3, 10))
            hub.left = None
            place.over(fetched, tally, place.tried(fetched, tally, **how))
            remove(place.root / f"hub-{number}")
    return tally


def clocks(place: Place, job: Job, count: int, random: Random) -> Tally:
    """Files dated anywhere from 1970 to 2100 between a kill and the next run: without effect."""
    moments, tally = Moments(place.whole(job).ended, random), Tally()
    while tally.faults < count:
        if not _interrupted(place, job, tally, moments):
            continue
        for file in (*place.work(job).rglob("*"), *(place.root / "model").iterdir(), place.root / "text.txt"):
            if file.exists():
                os.utime(file, (random.randrange(4_000_000_000),) * 2)
        tally.faults += 1
        place.over(job, tally, place.tried(job, tally))
    return tally


def flip(file: Path, random: Random) -> str:
    """Inverts one bit of a file; the name of the file, for safetensors with the part it was in."""
    raw = bytearray(file.read_bytes())
    at = random.randrange(len(raw))
    if file.suffix == ".safetensors" and random.randrange(4) == 0:
        at = random.randrange(min(len(raw), 8 + int.from_bytes(raw[:8], "little")))
    part = "" if file.suffix != ".safetensors" else " header" if at < 8 + int.from_bytes(raw[:8], "little") else " data"
    raw[at] ^= 1 << random.randrange(8)
    file.write_bytes(raw)
    return file.name + part


KINDS: dict[str, Callable[[Place, Job, int, Random], Tally]] = {
    "kill": kills,
    "kill, new interpreters": fresh_kills,
    "full disk": full_disk,
    "file size limit": small_files,
    "failing reads": failing_reads,
    "short reads": short_reads,
    "flips in the state": flips_in_state,
    "flips in the input": flips_in_input,
    "flips before reading back": flips_before_reading_back,
    "flips in the output": flips_in_output,
    "two jobs": two_jobs,
    "read-only work folder": read_only,
    "network lost": hub_reads,
    "clock": clocks,
}
