"""--log-json: whole lines at once, the same fields as documented, and an end that tells how the command ended."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import get_args

import pytest
import typer
from tiny import save_text, save_tiny

import omniq as package
from omniq import pipeline
from omniq.cli import app
from omniq.cli.jsonlog import NAMES, Log
from omniq.errors import OmniqError, RankError
from omniq.events import BlockDone, Event, Notice, Started, Step
from omniq.recipe import Recipe

DOCS = (Path(__file__).resolve().parents[1] / "docs" / "observability.md").read_text(encoding="utf-8")
ALWAYS = {"time", "event", "process"}
PEAKS = {"peak_memory", "device_peak"}


def lines(path: Path) -> list[dict]:
    """The lines of a log, each of which must be an object of its own."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Puts a function of the listener alone into the place of the quantisation."""

    def put(act: Callable[..., object]) -> None:
        monkeypatch.setattr(pipeline, "quantize", lambda *args, on_event, **rest: act(on_event))

    return put


def quantize(log: Path | str) -> tuple[str, ...]:
    return ("quantize", "m", "-o", "out", "--log-json", str(log))


# A real run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, what it was quantised to in `out`, and the log of that and of further commands."""
    root = tmp_path_factory.mktemp("log")
    save_tiny("llama", root / "model")
    text = str(save_text(root / "text.txt"))
    data = ["--calib", text, "--samples", "2", "--length", "16"]
    measured = ["--text", text, "--length", "16", "--windows", "2"]
    commands = {
        "quantize": [str(root / "model"), "-o", str(root / "out"), "-p", "gptq", "-g", "16", *data],
        "eval": [str(root / "out"), *measured],
        "export": [str(root / "out"), "--format", "dense", "-o", str(root / "dense")],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "cache_folder", lambda: root / "cache")
        for name, words in commands.items():
            with pytest.raises(SystemExit) as leaving:
                app.main([name, *words, "--log-json", str(root / f"{name}.jsonl")])
            assert not leaving.value.code
    return root


def test_a_run_is_told_from_its_versions_to_its_end(made: Path) -> None:
    told = lines(made / "quantize.jsonl")
    names = [line["event"] for line in told if line["event"] != "notice"]
    assert names == ["run", "settings", "started", "block", "block", "result", "end"]
    first, settings, *_, result, end = (line for line in told if line["event"] != "notice")
    assert (first["command"], first["words"][0], first["versions"]["omniq"]) == (
        *("quantize", "quantize"),
        package.__version__,
    )
    assert Recipe.from_dict(settings["recipe"]).preset == "gptq"
    assert result["result"]["out"] == str(made / "out")
    assert (end["outcome"], end["exit_code"], end["error"], end["sentence"]) == ("done", 0, None, None)
    assert end["peak_memory"] >= result["peak_memory"] > 10**7


def test_a_line_of_a_block_holds_the_event_and_the_memory(made: Path) -> None:
    record = json.loads((made / "out" / "report.json").read_text())
    blocks = [line for line in lines(made / "quantize.jsonl") if line["event"] == "block"]
    assert [line["index"] for line in blocks] == [0, 1]
    for line, kept in zip(blocks, record["blocks"], strict=True):
        assert (line["error"], line["peak_memory"]) == (kept["error"], kept["peak_memory"])
        assert line["device_peak"] is None


def test_times_are_utc_and_do_not_go_back(made: Path) -> None:
    times = [datetime.fromisoformat(line["time"].replace("Z", "+00:00")) for line in lines(made / "quantize.jsonl")]
    assert all(line["time"].endswith("Z") for line in lines(made / "quantize.jsonl"))
    assert times == sorted(times)
    assert timedelta(0) <= datetime.now(timezone.utc) - times[-1] < timedelta(hours=1)


@pytest.mark.parametrize(("command", "key"), [("eval", "ppl"), ("export", "target")])
def test_the_result_of_a_command_is_what_it_prints_as_json(command: str, key: str, made: Path) -> None:
    told = lines(made / f"{command}.jsonl")
    assert [told[0]["event"], told[-2]["event"], told[-1]["event"]] == ["run", "result", "end"]
    assert key in told[-2]["result"]


def test_windows_are_counted_in_the_log(made: Path) -> None:
    steps = [(line["index"], line["total"]) for line in lines(made / "eval.jsonl") if line["event"] == "step"]
    assert steps == [(1, 2)]


# The file ------------------------------------------------------------------------------------------------------------


def test_every_line_is_there_when_its_event_is_over(log: Path, omniq, acting) -> None:
    seen = []

    def act(listener: Callable[[Event], None]) -> None:
        for event in (Started(2, 0, "start"), Notice("heed"), BlockDone(0, 2, 1.0), Step(1, 2, "tuned", 0.5)):
            listener(event)
            seen.append(lines(log)[-1]["event"])
        raise OmniqError("enough")

    acting(act)
    omniq(*quantize(log))
    assert seen == ["started", "notice", "block", "step"]


def test_a_second_run_goes_on_in_the_same_file(log: Path, omniq, acting) -> None:
    acting(failing(OmniqError("first")))
    omniq(*quantize(log))
    acting(failing(OmniqError("second")))
    omniq(*quantize(log))
    assert [line["event"] for line in lines(log)] == 2 * ["run", "settings", "end"]
    assert [line["sentence"] for line in lines(log) if line["event"] == "end"] == ["first", "second"]


def test_on_standard_error_the_log_takes_the_place_of_what_people_read(
    acting, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(listener: Callable[[Event], None]) -> None:
        listener(Notice("heed"))
        raise OmniqError("the end")

    acting(act)
    with pytest.raises(SystemExit) as leaving:
        app.main(quantize("-"))
    out, err = capfd.readouterr()
    told = [json.loads(line) for line in err.splitlines()]
    assert (leaving.value.code, out) == (1, "")
    assert [line["event"] for line in told] == ["run", "settings", "notice", "end"]
    assert told[-1]["sentence"] == "the end"


def test_beside_a_file_people_read_what_they_always_did(log: Path, omniq, acting) -> None:
    acting(lambda listener: (listener(Notice("heed")), failing(OmniqError("the end"))(listener)))
    assert omniq(*quantize(log))[2] == "note: heed\nomniq: the end\n"


def test_a_log_that_cannot_be_opened_is_refused_before_work_starts(tmp_path: Path, omniq, acting) -> None:
    acting(failing(AssertionError("started")))
    code, _, err = omniq(*quantize(tmp_path / "nowhere" / "log"))
    assert code == 7
    assert "cannot write the log" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_without_room_ends_and_the_work_goes_on(omniq, acting) -> None:
    done = []
    acting(lambda listener: (listener(Notice("heed")), done.append(True), failing(OmniqError("after"))(listener)))
    code, _, err = omniq(*quantize("/dev/full"))
    assert (code, done) == (1, [True])
    assert err.count("the log /dev/full ends here") == 1


def test_numbers_that_json_lacks_become_null(log: Path) -> None:
    with Log(["quantize"]) as open_log:
        open_log.open(str(log))
        open_log(BlockDone(0, 1, 1.0, float("inf"), float("nan")))
    (block,) = (line for line in lines(log) if line["event"] == "block")
    assert (block["loss_before"], block["loss_after"], block["seconds"]) == (None, None, 1.0)


# How it ends ---------------------------------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[..., None]:
    """Raises `error` in place of any work."""

    def act(*_: object) -> None:
        raise error

    return act


def killing(number: int) -> Callable[..., None]:
    """Sends a signal to this process in place of any work."""
    return lambda *_: os.kill(os.getpid(), number)


ENDS = {
    **{
        kind.__name__: (failing(kind("a sentence")), "failed", kind.exit_code, kind.__name__, "a sentence")
        for kind in (OmniqError, *OmniqError.__subclasses__())
    },
    "memory": (failing(MemoryError()), "failed", 8, "MemoryError", "out of memory"),
    "disk": (failing(OSError(28, "No space left on device")), "failed", 7, "OSError", "the disk is full"),
    "Ctrl-C": (killing(signal.SIGINT), "interrupted", 130, "KeyboardInterrupt", "same command again"),
    "SIGTERM": (killing(signal.SIGTERM), "terminated", 143, "KeyboardInterrupt", "same command again"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_line_says_how_a_command_ended(end: str, log: Path, omniq, acting) -> None:
    act, outcome, code, kind, sentence = ENDS[end]
    acting(act)
    assert omniq(*quantize(log))[0] == code
    last = lines(log)[-1]
    assert (last["event"], last["outcome"], last["exit_code"], last["error"]) == ("end", outcome, code, kind)
    assert sentence in last["sentence"]


def test_a_bug_is_in_the_log_too(log: Path, acting) -> None:
    acting(failing(ZeroDivisionError("a contradiction")))
    with pytest.raises(ZeroDivisionError):
        app.main(quantize(log))
    last = lines(log)[-1]
    assert (last["exit_code"], last["error"], last["sentence"]) == (1, "ZeroDivisionError", "a contradiction")


def test_a_value_that_cannot_be_read_is_in_the_log(log: Path, omniq) -> None:
    assert omniq("quantize", "m", "-o", "out", "--wbits", "many", "--log-json", str(log))[0] == 2
    last = lines(log)[-1]
    assert (last["exit_code"], last["outcome"]) == (2, "failed")
    assert "--wbits" in last["sentence"]


def test_without_the_option_nothing_is_written(tmp_path: Path, omniq, acting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    acting(failing(RankError("gone")))
    omniq("quantize", "m", "-o", "out")
    assert list(tmp_path.iterdir()) == []


# What is documented --------------------------------------------------------------------------------------------------


def documented() -> dict[str, set[str]]:
    """The fields of each event, as the guide's table has them."""
    rows = re.findall(r"^\| `(\w+)` \| [^|`]*(?:`[^|]*)? \| (.*) \|$", DOCS.split("## Metrics")[0], re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows}


def test_every_kind_of_event_has_a_name_of_its_own() -> None:
    assert set(NAMES) == set(get_args(Event))
    assert len(set(NAMES.values())) == len(NAMES)


def test_the_fields_of_every_event_are_documented(made: Path) -> None:
    told = documented()
    for kind, name in NAMES.items():
        assert told[name] == {field.name for field in fields(kind)}
    for name in ("quantize", "eval", "export"):
        for line in lines(made / f"{name}.jsonl"):
            assert set(line) - ALWAYS - PEAKS <= told[line["event"]]
            assert set(line) >= ALWAYS


def test_every_long_command_takes_a_log(tmp_path: Path, omniq) -> None:
    commands = typer.main.get_command(app.app).commands
    long = {name for name, command in commands.items() if any("--log-json" in param.opts for param in command.params)}
    assert long == {"quantize", "eval", "audit", "unlearn", "export"}
    nowhere = str(tmp_path / "nowhere")
    words = {
        "quantize": [nowhere, "-o", "x"],
        "eval": [nowhere, "--text", __file__],
        "audit": ["--original", nowhere, "--data", "facts", "--out", str(tmp_path / "x")],
        "unlearn": [nowhere, "--data", "facts", "--method", "ga", "--out", str(tmp_path / "x")],
        "export": [nowhere, "--format", "gptq", "-o", str(tmp_path / "x")],
    }
    for name in sorted(long):
        log = tmp_path / f"{name}.jsonl"
        assert omniq(name, *words[name], "--log-json", str(log))[0] == 3
        told = lines(log)
        assert (told[0]["event"], told[0]["command"], told[-1]["error"]) == ("run", name, "ModelError")
