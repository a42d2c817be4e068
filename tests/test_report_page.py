"""The report of a quantisation run: one page from the record alone, complete with and without plots."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from run_records import HOSTILE, KINDS, QUALITY, hostile, linear, record
from test_audit_page import LOADING, Reader

from omniq.errors import ModelError
from omniq.page import figures
from omniq.reporting.folder import read_record, write_report
from omniq.reporting.page import SECTIONS, html
from omniq.reporting.parts.kinds import kinds
from omniq.reporting.parts.style import STEPS
from omniq.reporting.record import Record, record_from


@pytest.fixture(autouse=True)
def no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed, which is quicker, save for the test of the plots."""
    if "plots_are_drawn" not in request.node.name:
        monkeypatch.setattr(figures, "find_spec", lambda name: None)


def test_a_record_survives_the_way_to_disk_and_back(tmp_path: Path) -> None:
    for made in (record(), record(quality=QUALITY, tuned=None, blocks=()), hostile()):
        page = write_report(made, tmp_path)
        assert read_record(tmp_path) == made
        assert page.read_text() == html(made), "the page is made of the record alone"


@pytest.mark.parametrize("made", [record(), record(quality=QUALITY), hostile()], ids=["plain", "measured", "hostile"])
def test_the_page_loads_and_runs_nothing(made: Record) -> None:
    page = Reader(html(made))
    assert page.faults == []
    assert not set(page.tags) & set(LOADING)
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert all(value.startswith("#") for _, key, value in page.attributes if key in ("href", "src"))


def test_markup_in_a_record_is_text_on_the_page() -> None:
    page = Reader(html(hostile()))
    assert "script" not in page.tags
    assert HOSTILE in page.text


def test_every_fact_of_a_run_is_on_its_page() -> None:
    made = record(quality=QUALITY)
    text = Reader(html(made)).text
    shown = ("W4A16g64", "4.25", "256.0 MB", "1.0 GB", "1 min 15 s", "512.0 MB", "2.13.0", "0.0512", "0.8750", "0.0400")
    said = ("heed this", "norms stay", QUALITY["protocol"], *made.loaders, "3 training steps were skipped")
    own = (made.command, made.data_fingerprint, made.blocks[1].unreached[0])
    assert [fact for fact in (*shown, *said, *own) if fact not in text] == []


def test_links_lead_to_the_parts_that_are_there() -> None:
    page = Reader(html(record()))
    ids = {value for _, key, value in page.attributes if key == "id"}
    links = [value[1:] for name, key, value in page.attributes if key == "href" and name == "a"]
    assert links == [key for key in SECTIONS if key != "bits"], "all linears have the same bits"
    assert set(links) <= ids


def test_experts_share_a_cell_that_shows_the_worst() -> None:
    assert kinds(record()) == [KINDS[0], "mlp.experts.*.up_proj", KINDS[3]]
    bad = replace(record().blocks[0], linears=(linear(0, KINDS[1], 0.0004), linear(0, KINDS[2], 0.09)))
    page = html(record(blocks=(bad,)))
    assert ">30.0</td>" in page, "the root of 0.09 in per cent"
    assert ">2.0</td>" not in page


def test_errors_are_coloured_alike_in_every_report() -> None:
    for step, bound in enumerate(STEPS, 1):
        just = replace(record().blocks[0], linears=(linear(0, KINDS[0], (bound / 100 * 1.001) ** 2),))
        assert f'class="h{step}">' in html(record(blocks=(just,)))


def test_bits_are_shown_where_linears_differ_in_them() -> None:
    from run_records import block

    page = html(record(blocks=(block(0, mixed=True),), allocation="some bits here"))
    assert 'id="bits"' in page
    assert "some bits here" in page
    assert 'class="b3">3</td>' in page


def test_without_tokens_the_errors_of_weights_are_shown() -> None:
    silent = tuple(replace(one, output=None) for one in record().blocks[0].linears)
    page = html(record(blocks=(replace(record().blocks[0], linears=silent),)))
    assert "no tokens were seen" in page
    assert "Output error" not in page


def test_without_matplotlib_the_page_says_what_is_missing_and_keeps_every_number() -> None:
    page = Reader(html(record()))
    assert figures.lacking() in page.text
    assert "svg" not in page.tags
    assert "0.03" in page.text
    assert "4.5 s" in page.text


def test_plots_are_drawn_and_the_same_record_gives_the_same_bytes() -> None:
    pytest.importorskip("matplotlib")
    page = html(record())
    assert page == html(record())
    assert page.count("<svg") == 2
    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>")
    assert "mathdefault" not in page


def test_an_interrupted_run_tells_what_its_time_counts() -> None:
    assert "since it went on at block 2" in html(record(resumed_at=2))


BAD = {
    "another layout": {"layout": 99},
    "no layout": {"layout": None},
    "a missing field": {"blocks": ...},
    "an unknown field": {"surprise": 1},
    "a number that is text": {"size_after": "big"},
    "a list that is a number": {"loaders": 3},
    "a block that is text": {"blocks": ["x"]},
    "a sentence that is a number": {"notices": [3]},
}


@pytest.mark.parametrize("key", list(BAD))
def test_a_damaged_record_is_an_error_that_names_its_file(key: str, tmp_path: Path) -> None:
    values = json.loads(json.dumps({**record().to_dict()}))
    for name, value in BAD[key].items():
        values[name] = value
        if value is ...:
            del values[name]
    with pytest.raises(ModelError, match=r"report\.json"):
        record_from(values, "OUT/report.json")
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ModelError, match=r"report\.json"):
        read_record(tmp_path)


def test_a_folder_without_a_record_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="omniq quantize wrote"):
        read_record(tmp_path)
