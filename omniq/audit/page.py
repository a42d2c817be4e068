"""html: an audit as one page that needs nothing but itself: no network, no scripts, no fonts."""

from __future__ import annotations

from omniq.audit.parts.compared import effects, key_figures, models
from omniq.audit.parts.flips import flips
from omniq.audit.parts.full import absences, everything
from omniq.audit.parts.pictures import pictures
from omniq.audit.parts.protocol import notes, protocol
from omniq.audit.parts.style import CSS
from omniq.audit.parts.verdicts import verdicts
from omniq.audit.result import Result
from omniq.page.document import contents, document
from omniq.page.markup import Markup, tag

SECTIONS = {
    "verdict": ("Verdict", verdicts),
    "models": ("Models", models),
    "figures": ("Key figures", key_figures),
    "effect": ("Changes", effects),
    "plots": ("Plots", pictures),
    "flips": ("Answers", flips),
    "all": ("All results", everything),
    "absent": ("Not available", absences),
    "protocol": ("Protocol", protocol),
    "notes": ("Notes", notes),
}
"""In the order of the page: key -> (name in the contents, what makes it; '' where the result has nothing for it)."""


def html(result: Result) -> str:
    """The whole page; the same text for the same result."""
    made = {key: make(result) for key, (_, make) in SECTIONS.items()}
    links = contents((key, SECTIONS[key][0]) for key, part in made.items() if part)
    title = f"What quantisation did to what a model knows: {result.facts.get('data', result.run_id)}"
    return document(title, [header(result), links, tag("main", made.values())], CSS)


def header(result: Result) -> Markup:
    """The title, and what was asked of how many models when."""
    facts = result.facts
    said = [f"{len(result.models)} models"]
    said += [str(facts[name]) for name in ("data", "items") if name in facts]
    said += [f"preset {facts['preset']}"] if "preset" in facts else []
    said += [str(facts["date"])] if "date" in facts else []
    return tag("header", [tag("h1", "What quantisation did to what this model knows"), tag("p", " · ".join(said))])
