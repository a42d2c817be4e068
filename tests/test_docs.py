"""The guide: its examples run, its tables are what the program answers, its errors are those of the source."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from doc_tables import DOCS, ROOT, TABLES, cells, formats_table, gguf_table, marked, measured, tools_table, written
from tiny import TEXT, save_tiny

from omniq import recipes
from omniq.cli import app
from omniq.cli.examples import EXAMPLES, START
from omniq.kernels.dispatch import KERNELS

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
RUN = [ROOT / "README.md", DOCS / "quickstart.md"]
"""Pages whose examples are run, from the first to the last of each page in one folder."""
SMALLER = {"quantize": ["--samples", "2", "--length", "32"], "eval": ["--windows", "2", "--length", "32"]}
"""What is added to a command, so that it takes seconds; a later option wins."""
FEWER = {"samples=32, length=512": "samples=2, length=32", "windows=12": "windows=2, length=32"}
"""The same for Python."""
ELSEWHERE = {"pip": "installs", "make": "installs", "vllm": "needs a GPU", "curl": "needs a server"}
"""Programs that a block may call beside omniq, and why a test does not run them."""
DIVISIBLE = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}
"""Settings of a tiny model whose layers the documented group sizes divide."""


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every code block of a page, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """The words of every command line in a block, without comments."""
    return [words for words in (shlex.split(line, comments=True) for line in text.splitlines()) if words]


# Examples ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for a model in the examples: a tiny one."""
    return save_tiny("llama", tmp_path_factory.mktemp("docs") / "model", **DIVISIBLE)


@pytest.fixture
def place(fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that examples run in: MODEL, my-text.txt, and a fetch-demo that makes a tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omniq.demo.fetch_demo", lambda out, name: out.symlink_to(fetched))
    (tmp_path / "MODEL").symlink_to(fetched)
    (tmp_path / "my-text.txt").write_text(TEXT * 20, encoding="utf-8")
    return tmp_path


def ran(words: list[str]) -> int:
    """The exit code of an omniq command."""
    with pytest.raises(SystemExit) as leaving:
        app.main([*words, *SMALLER.get(words[0], [])])
    return leaving.value.code or 0


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_example_of_a_page_runs(page: Path, place: Path) -> None:
    done = {"omniq": 0, "python": 0}
    for language, text in blocks(page):
        if language == "python":
            for much, little in FEWER.items():
                text = text.replace(much, little)
            exec(compile(text, page.name, "exec"), {"__name__": "__main__"})
            done["python"] += 1
        for program, *words in commands(text) if not language else ():
            assert program == "omniq" or program in ELSEWHERE
            if program == "omniq":
                assert ran(words) == 0, words
                done["omniq"] += 1
    assert min(done.values()) >= 1


def test_an_example_that_fails_is_seen(place: Path) -> None:
    assert ran(["eval", "OUT", "--text", "my-text.txt"]) == 3


def test_every_command_has_two_examples_that_its_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    root = typer.main.get_command(app.app)
    assert set(EXAMPLES) == set(root.commands)
    for name, lines in EXAMPLES.items():
        assert len(lines) == 2
        assert lines[0].startswith(f"omniq {name}")
        ran([name, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        for line in lines:
            program, command, *words = shlex.split(line)
            assert program == "omniq"
            assert " ".join(line.split()) in shown
            group = root.commands[command]
            leaf = group.commands[words[0]] if words and words[0] in getattr(group, "commands", {}) else group
            known = {option for param in leaf.params for option in (*param.opts, *param.secondary_opts)}
            assert {word for word in words if re.match(r"-+[a-z]", word)} <= known


def test_the_help_begins_with_a_way_through(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(["--help"])
    shown = capsys.readouterr().out
    assert all(line in shown for line in START)
    assert all(panel in shown for panel in ("Make", "Run", "Measure", "Look"))
    for line in START:
        assert ran(shlex.split(line)[1:]) == 0


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "make"), [("formats", formats_table), ("gguf", gguf_table), ("tools", tools_table)])
def test_a_table_is_what_the_program_answers_or_the_rows_say(name: str, make) -> None:
    page = (DOCS / TABLES[name][0]).read_text(encoding="utf-8")
    assert marked(page, name)[2] == make() + "\n", "run: python tests/doc_tables.py"


def test_figures_of_recipes_are_those_that_were_measured() -> None:
    rows = marked((DOCS / "recipes.md").read_text(encoding="utf-8"), "recipes")[2].splitlines()[2:]
    shown = {row.split("`")[1]: tuple(cell.strip() for cell in row.split("|")[4:-1]) for row in rows}
    assert set(shown) == set(recipes.names())
    for name, figures in shown.items():
        assert figures in (cells(measured(name)), cells(None)), "run: python tests/doc_tables.py"


def test_a_table_is_written_between_its_marks_alone() -> None:
    page = "before\n<!-- table: t -->\nold\n<!-- end -->\nafter"
    assert written(page, "t", "new") == "before\n<!-- table: t -->\nnew\n<!-- end -->\nafter"


def test_every_kernel_is_in_the_table_of_kernels() -> None:
    text = (DOCS / "kernels.md").read_text(encoding="utf-8")
    assert [name for name in (*KERNELS, *KERNELS.absent) if f"| `{name}` |" not in text] == []


# Errors --------------------------------------------------------------------------------------------------------------


def sentence(node: ast.AST) -> str | None:
    """A string of the source with '…' for each value put into it, None for any other node."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


@pytest.fixture(scope="module")
def sentences() -> set[str]:
    """Every string of the library's source."""
    trees = (
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("omniq", "kernels", "calibrate")
        for path in (ROOT / folder).rglob("*.py")
    )
    return {found for tree in trees for node in ast.walk(tree) if (found := sentence(node))}


QUOTED = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_error_is_one_that_omniq_says(quoted: str, sentences: set[str]) -> None:
    assert any(quoted in said for said in sentences)


def test_the_likeliest_errors_are_explained() -> None:
    assert len(QUOTED) >= 25
    assert len(set(QUOTED)) == len(QUOTED)


def test_a_sentence_that_nobody_says_is_noticed(sentences: set[str]) -> None:
    assert not any("the moon is not a multiple of the group size" in said for said in sentences)


# Links ---------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The names that the headings of a page can be linked by."""
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_a_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    assert [
        page.name for page in DOCS.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_script_named_on_a_page_exists(page: Path) -> None:
    for script in re.findall(r"python ((?:benchmarks|tests)/[\w/]+\.py)", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script
