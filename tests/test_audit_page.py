"""The report of an audit: one page that needs nothing but itself, and the terminal's summary of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from audit_results import HOSTILE, models, result

from omniq.audit import drawing, page, summary
from omniq.audit.base import EVALUATORS
from omniq.audit.lookup import base_name, overall, quantised
from omniq.audit.parts import flips
from omniq.audit.plots.base import PLOTS
from omniq.audit.result import Result
from omniq.audit.wording import CODE_WORDS, displays, number, p_value, share, signed
from omniq.page import document, figures
from omniq.page.markup import Markup, tag

LOADING = ("script", "iframe", "object", "embed", "link", "img", "image", "form", "base", "video", "audio")
VOID = ("meta", "col")

# What every plot needs of a result: without the evaluators named it has nothing to draw.
NEEDS = {
    "bars": ("qa_gen", "qa_ll", "probe", "mcq"),
    "bits": ("qa_gen", "qa_ll"),
    "plane": ("qa_gen", "qa_ll"),
    "before_after": ("qa_gen", "qa_ll", "probe", "relearn", "privacy"),
    "truth_ratio": ("qa_ll",),
    "probe_layers": ("probe",),
    "pprobe": ("probe",),
    "relearn": ("relearn",),
    "weights": ("weights",),
}


class Reader(HTMLParser):
    """Elements, attributes and text of a page; `faults` where end tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.faults: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(name, attributes)
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(name)
        self.attributes += [(name, key, value or "") for key, value in attributes]

    def handle_endtag(self, name: str) -> None:
        if not self.open or self.open.pop() != name:
            self.faults.append(name)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes pages in a fraction of the time."""
    monkeypatch.setattr(figures, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def several() -> Result:
    """An audit with several bit widths, so that every plot has data."""
    return result((8, 4, 2))


@pytest.fixture(scope="module")
def drawn(several: Result) -> dict[str, figures.Drawing]:
    """Every plot of it by name."""
    return {one.name: one for one in drawing.drawings(several)}


@pytest.fixture(scope="module")
def whole() -> str:
    """The page of an audit with every role, one scheme."""
    return page.html(result())


@pytest.fixture(scope="module")
def hostile() -> str:
    """The page of an audit whose texts try to break out."""
    return page.html(result(hostile=True, never=False))


def without(made: Result, *evaluators: str) -> Result:
    """A result that lacks some evaluators."""
    return replace(
        made,
        rows=tuple(row for row in made.rows if row.evaluator not in evaluators),
        items=tuple(item for item in made.items if item.evaluator not in evaluators),
        absent=tuple(one for one in made.absent if one.evaluator not in evaluators),
    )


def test_every_element_of_the_page_is_closed_in_order(whole: str, hostile: str) -> None:
    for text in (whole, hostile):
        reader = Reader(text)
        assert reader.faults == []
        assert reader.open == []
        assert "svg" in reader.tags


def test_the_page_says_every_verdict_and_every_reason_in_full(whole: str) -> None:
    made, text = result(), Reader(whole).text
    for verdict in made.verdicts:
        for said in (verdict.sentence, verdict.state, *verdict.effect, verdict.mechanism, *verdict.readings):
            assert said in text
        assert all(driver in text for driver in verdict.drivers)
    assert all(one.reason in text for one in made.absent)
    assert all(note in text for note in made.notes)
    assert all(str(value) in text for value in made.facts.values() if not isinstance(value, dict))
    assert all(name in text for name in displays(made).values())


def test_every_value_of_every_evaluator_stands_in_the_page(whole: str) -> None:
    cells = Counter(word.strip() for word in Reader(whole).words)
    wanted = Counter(number(row.value) for row in result().rows)
    assert {value for value, count in wanted.items() if cells[value] < count} == set()


def test_the_page_loads_nothing_and_runs_nothing(whole: str, hostile: str) -> None:
    assert "http://" not in whole
    assert "https://" not in whole
    for text in (whole, hostile):
        reader = Reader(text)
        assert set(reader.tags).isdisjoint(LOADING)
        for name, key, value in reader.attributes:
            assert not key.startswith("on"), (name, key)
            assert key not in ("src", "srcset", "action", "data"), (name, key)
            if key == "href":
                assert value.startswith("#")
            if key == "style":
                assert "url(" not in value.replace("url(#", "")
        policy = [value for name, key, value in reader.attributes if name == "meta" and value.startswith("default-src")]
        assert policy == [document.POLICY]
    assert "default-src 'none'" in document.POLICY
    assert "script-src" not in document.POLICY


def test_every_evaluator_and_metric_is_explained(whole: str) -> None:
    text = Reader(whole).text
    for name in {row.evaluator for row in result().rows}:
        for metric in EVALUATORS[name].metrics:
            assert f"{metric.name}: {metric.summary}" in text


def test_an_evaluator_of_another_version_is_shown_without_words(no_plots: None) -> None:
    made = result()
    rows = tuple(replace(row, evaluator="later") if row.evaluator == "general" else row for row in made.rows)
    assert "later 5 values" in Reader(page.html(replace(made, rows=rows))).text


def test_hostile_text_is_shown_as_text(hostile: str) -> None:
    reader = Reader(hostile)
    assert "<script" not in hostile
    assert "<img" not in hostile
    # The verdict, the reasons, the notes, the questions with both answers, the labels of models.
    assert reader.text.count(HOSTILE) > 100


def test_a_control_character_in_an_answer_does_not_reach_the_page(no_plots: None) -> None:
    made = result()
    items = tuple(replace(item, text="a\x00b\x1b[0m\ud800c") if item.text else item for item in made.items)
    text = page.html(replace(made, items=items))
    assert "a\ufffdb\ufffd[0m\ufffdc" in text
    text.encode("utf-8")


def test_ids_are_unique_and_every_link_leads_somewhere(whole: str) -> None:
    reader = Reader(whole)
    ids = [value for _, key, value in reader.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = {value[1:] for _, key, value in reader.attributes if key == "href"}
    assert links <= set(ids)
    clips = {value[5:-1] for _, _, value in reader.attributes if value.startswith("url(#")}
    assert clips
    assert clips <= set(ids)


def test_the_same_result_gives_the_same_bytes(no_plots: None) -> None:
    assert page.html(result()) == page.html(result())


def test_the_same_plot_gives_the_same_bytes(several: Result, drawn: dict[str, figures.Drawing]) -> None:
    assert [drawing.plotted(name, several) for name in ("bits", "weights")] == [drawn["bits"], drawn["weights"]]


@pytest.mark.parametrize("made", [result((8, 4)), result(unlearned=False, never=False)])
def test_the_page_never_says_removed(made: Result, no_plots: None) -> None:
    assert "removed" not in page.html(made).lower()
    assert "removed" not in repr(summary.tables(made)).lower()


def test_no_plot_says_removed(drawn: dict[str, figures.Drawing]) -> None:
    assert not [one.name for one in drawn.values() if "removed" in f"{one.title}{one.caption}{one.svg}".lower()]


def test_the_page_of_two_models_compares_the_original_with_its_quantised_form(no_plots: None) -> None:
    made = result(unlearned=False, never=False)
    text = Reader(page.html(made)).text
    assert "No quantised model was judged in this audit." in text
    assert "Right before, wrong after quantisation" in text
    assert "Recovered" not in text.split("What quantisation changed")[1].split("Plots")[0]


def test_the_page_of_a_result_with_nothing_in_it_is_whole() -> None:
    empty = Result("0", models(), (), (), (), (), {})
    reader = Reader(page.html(empty))
    assert reader.faults == []
    assert "None of the key figures was measured" in reader.text


def test_without_matplotlib_the_page_is_made_and_says_so(no_plots: None, whole: str) -> None:
    assert "matplotlib" in figures.lacking()
    reader = Reader(page.html(result()))
    assert "svg" not in reader.tags
    assert figures.lacking() in reader.text
    assert figures.lacking() not in Reader(whole).text


def test_every_plot_is_drawn_where_its_data_are_there(drawn: dict[str, figures.Drawing]) -> None:
    assert list(drawn) == [name for name, _ in sorted(PLOTS.items(), key=lambda entry: entry[1].place)]


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_a_plot_without_its_data_is_left_out(name: str, several: Result) -> None:
    assert PLOTS[name].draw(without(several, *NEEDS[name])) is None


def test_bit_widths_are_drawn_only_where_there_are_several() -> None:
    assert PLOTS["bits"].draw(result((4,))) is None


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_a_plot_names_its_axes_and_explains_itself(
    name: str, several: Result, drawn: dict[str, figures.Drawing]
) -> None:
    figure = PLOTS[name].draw(several)
    assert any(axes.get_xlabel() for axes in figure.axes)
    assert any(axes.get_ylabel() or axes.get_yticklabels()[0].get_text() for axes in figure.axes)
    assert drawn[name].title
    assert drawn[name].caption.endswith(".")
    assert ElementTree.fromstring(drawn[name].svg).attrib["aria-label"] == drawn[name].title


def test_every_plot_has_its_own_place() -> None:
    places = [plot.place for _, plot in PLOTS.items()]
    assert len(set(places)) == len(places)


def test_a_plot_shows_values_intervals_and_chance() -> None:
    made = result()
    axes = PLOTS["bars"].draw(made).axes[0]
    rows = overall(made, "qa_gen", "contains", "forget")
    assert [patch.get_width() for patch in axes.patches] == [row.value for row in rows.values()]
    ends = [bar.get_segments()[0][:, 0].tolist() for bar in axes.collections]
    assert ends == [pytest.approx([row.ci_lo, row.ci_hi]) for row in rows.values()]
    assert any(list(line.get_xdata()) == [0.0, 0.0] and line.get_linestyle() == "--" for line in axes.lines)


def test_the_truth_ratio_of_an_item_is_that_of_its_share() -> None:
    from omniq.audit.plots.truth_ratio import ratios

    made = result()
    shares = [
        one.value for one in made.items if (one.name, one.metric, one.split) == ("unl_fp", "tr_prob_mean", "forget")
    ]
    found = ratios(made)["unl_fp", "forget"]
    assert [1 / (1 + ratio) for ratio in found] == pytest.approx(shares)


def test_a_flip_shows_the_question_the_answer_and_what_both_models_wrote() -> None:
    made = result()
    values = {(one.name, one.item): one for one in made.items if one.metric == "contains"}
    rose = [
        item for (name, item) in values if name == "unl_q" and values["unl_fp", item].value < values[name, item].value
    ]
    fell = [
        item for (name, item) in values if name == "unl_q" and values["unl_fp", item].value > values[name, item].value
    ]
    assert rose
    text = str(flips.flips(made))
    for item in rose[: flips.MOST]:
        facts = made.questions[item]
        wanted = (facts["question"], facts["answer"], values["unl_fp", item].text, values["unl_q", item].text)
        line = "".join([str(tag("th", item.split("-")[0], scope="row")), *(str(tag("td", said)) for said in wanted)])
        assert f"<tr>{line}</tr>" in text
    shown = text.count("<tr>") - 1 - bool(fell)
    assert shown == min(len(rose), flips.MOST) + min(len(fell), flips.MOST)


def test_a_long_table_of_flips_is_cut_and_says_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = str(flips.flips(result())).count("<tr>")
    monkeypatch.setattr(flips, "MOST", 3)
    text = str(flips.flips(result()))
    assert text.count("<tr>") < whole
    assert "more are among the items of the audit&#x27;s result file." in text


def test_text_is_escaped_once_and_markup_never() -> None:
    assert tag("p", 'a < b & "c"') == "<p>a &lt; b &amp; &quot;c&quot;</p>"
    assert tag("p", [Markup("<b>x</b>"), "<i>"], class_='"') == '<p class="&quot;"><b>x</b>&lt;i&gt;</p>'


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.0, "0.000"), (0.1234, "0.123"), (-0.5, "−0.500"), (12.345, "12.3"), (1234.5, "1,234"), (2e-7, "2.0e-07"),
     (3.2e8, "3.2e+08"), (None, "n/a"), (float("nan"), "n/a")],
)  # fmt: skip
def test_a_number_is_as_precise_as_it_is_large(value: float | None, said: str) -> None:
    assert number(value) == said


def test_changes_shares_and_p_values_are_said_as_people_read_them() -> None:
    assert [signed(value) for value in (0.25, -0.25, 1e-5, None)] == ["+0.250", "−0.250", "0.000", "n/a"]
    assert [share(value) for value in (0.834, -0.1, None)] == ["83 %", "−10 %", ""]
    assert [p_value(value) for value in (0.0316, 1e-9, None)] == ["0.032", "< 0.001", ""]


def test_models_of_the_same_name_are_told_apart() -> None:
    made = result((8, 4))
    same = replace(made, models=tuple(replace(model, label="same") for model in made.models))
    assert len(set(displays(same).values())) == len(same.models)


def test_a_metric_of_layers_stands_for_itself_where_the_original_has_most() -> None:
    made = result()
    layered = [row for row in made.rows if row.metric == "probe_r2f"]
    best = max((row for row in layered if row.role == "orig_fp"), key=lambda row: row.value).layer
    assert {row.layer for row in overall(made, "probe", "probe_r2f", "forget").values()} == {best}


def test_a_quantised_model_is_compared_with_what_it_was_made_from() -> None:
    made = result()
    assert [model.name for model in quantised(made)] == ["unl_q"]
    assert {model.role: base_name(made, model) for model in made.models} == {
        "orig_fp": None, "never_fp": None, "orig_q": "orig_fp", "unl_fp": None, "unl_q": "unl_fp",
    }  # fmt: skip
    assert [model.name for model in quantised(result(unlearned=False))] == ["orig_q"]


def test_every_code_of_a_verdict_has_words() -> None:
    from omniq.audit import sentences

    codes = {*sentences.STATES, *sentences.EFFECTS, *sentences.MECHANISMS, "SUPPRESSED"}
    assert codes == set(CODE_WORDS)


def test_the_summary_says_the_verdict_and_the_key_figures_of_each_split() -> None:
    made = result()
    found = {title: (columns, rows) for title, columns, rows in summary.tables(made)}
    _, told = found["Verdict: unlearned, quantised · rtn W4A16g64"]
    assert ("in words", made.verdicts[0].sentence) in told
    columns, rows = found["Key figures on forget, with 95 % intervals"]
    assert columns[:2] == ("model", "answers right (chance 0)")
    row = overall(made, "qa_gen", "contains", "forget")["unl_q"]
    assert rows[-1][1] == f"{row.value:.2f} [{row.ci_lo:.2f}, {row.ci_hi:.2f}]"
    for columns, rows in found.values():
        assert all(len(row) == len(columns or rows[0]) and all(isinstance(cell, str) for cell in row) for row in rows)


def test_the_summary_shows_what_was_measured_and_what_is_not_zero_everywhere_first() -> None:
    made = result()
    zero = replace(made, rows=tuple(replace(r, value=0.0) if r.metric == "contains" else r for r in made.rows))
    titles = {title: columns for title, columns, _ in summary.tables(zero)}
    columns = titles["Key figures on forget, with 95 % intervals"]
    assert not columns[1].startswith("answers right")
    for title, columns, rows in summary.tables(made):
        for place, _ in enumerate(columns[1:], 1):
            assert any(row[place] != "N/A" for row in rows), (title, columns[place])


def test_a_gate_stands_beside_its_value(no_plots: None) -> None:
    made = result()
    rows = tuple(replace(row, gate="no_capability") if row.metric == "contains" else row for row in made.rows)
    gated = replace(made, rows=rows)
    assert "(no capability)" in summary.tables(gated)[1][2][0][1]
    assert "no capability" in Reader(page.html(gated)).text
