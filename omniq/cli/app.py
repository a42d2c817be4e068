"""The command `omniq`. Nothing here or in the modules it imports loads torch: `omniq --help` answers at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from omniq import __version__
from omniq.cli import (
    audit,
    bench_decode,
    bench_kernels,
    doctor,
    export,
    export_lm_eval,
    fetch_demo,
    generate,
    info,
    make_subject,
    push,
    quantize,
    report,
    unlearn,
)
from omniq.cli import eval as eval_command
from omniq.cli import list as list_command
from omniq.cli.examples import START, about, lines
from omniq.cli.exits import OUT_OF_MEMORY, in_one_line
from omniq.cli.interruption import Interruption
from omniq.cli.jsonlog import Log
from omniq.errors import OmniqError, OutputError

app = typer.Typer(
    name="omniq",
    help="Turn a language model into a low-bit one, measure what that did, and run it.",
    epilog="\n\n".join(
        (
            lines("Start with:", START),
            "Every command explains itself: omniq quantize --help.",
            f"Exit codes: {in_one_line()}.",
        )
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("quantize", no_args_is_help=True, **about("quantize"))(quantize.command)
app.command("eval", no_args_is_help=True, **about("eval"))(eval_command.command)
app.command("generate", no_args_is_help=True, **about("generate"))(generate.command)
app.command("export", no_args_is_help=True, **about("export"))(export.command)
app.command("push", no_args_is_help=True, **about("push"))(push.command)
audits = typer.Typer(invoke_without_command=True, no_args_is_help=True)
audits.callback()(audit.command)
audits.command("make-subject", no_args_is_help=True)(make_subject.make_subject)
audits.command("export-lm-eval", no_args_is_help=True)(export_lm_eval.command)
app.add_typer(audits, name="audit", **about("audit"))
app.command("unlearn", no_args_is_help=True, **about("unlearn"))(unlearn.command)
app.command("report", no_args_is_help=True, **about("report"))(report.command)
app.command("info", **about("info"))(info.command)
app.command("doctor", **about("doctor"))(doctor.command)
app.command("list", no_args_is_help=True, **about("list"))(list_command.command)
bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine: single kernels, or whole models.")
bench.command("kernels")(bench_kernels.kernels)
bench.command("decode", no_args_is_help=True)(bench_decode.decode)
app.add_typer(bench, name="bench", **about("bench"))
app.command("fetch-demo", no_args_is_help=True, **about("fetch-demo"))(fetch_demo.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"omniq {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (works after any command).")
    ] = False,
) -> None:
    pass


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with a code that tells what happened (omniq/errors.py, 130, 143, 8, 2)."""
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    words = [word for word in given if word != "--debug"]
    with Log(words) as log, Interruption(interrupted(words), partial(_say, log, "KeyboardInterrupt")):
        _run(words, debug, log)


def _run(words: Sequence[str], debug: bool, log: Log) -> None:
    """Runs the command line; an error that a user can do something about ends as a sentence."""
    try:
        app(words, prog_name="omniq", obj=log)
    except (OmniqError, MemoryError, OSError, RuntimeError) as error:
        known = explained(error)
        if debug or known is None:
            raise
        sentence, code = known
        _say(log, type(error).__name__, sentence)
        sys.exit(code)


def explained(error: Exception) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that a user can do something about, or None for any other."""
    if isinstance(error, OmniqError):
        return str(error), error.exit_code
    # torch reports a failed allocation as a RuntimeError: on the CPU only its text tells.
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    ):
        return "out of memory; use fewer --samples, a shorter --length, or a machine with more memory", OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk is full{where}; free some space and run the same command again", OutputError.exit_code
        return f"{error.strerror}{where}", OutputError.exit_code
    return None


def interrupted(words: Sequence[str]) -> str:
    """What to tell a user who pressed Ctrl-C."""
    resumes = " to go on where it stopped" if words[:1] == ["quantize"] else ""
    return f"interrupted; run the same command again{resumes}"


def _say(log: Log, kind: str, sentence: str) -> None:
    """One red sentence on standard error, or in the log that stands in its place."""
    log.failed(kind, sentence)
    if log.on_stderr:
        return
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"omniq: {sentence}", style="red", markup=False)
