"""html: an audit as one page that needs nothing but itself: no network, no scripts, no fonts."""

from __future__ import annotations

from omniq.audit.parts.compared import effects, key_figures, models
from omniq.audit.parts.flips import flips
from omniq.audit.parts.full import absences, everything
from omniq.audit.parts.markup import Markup, listed, tag
from omniq.audit.parts.pictures import pictures
from omniq.audit.parts.protocol import notes, protocol
from omniq.audit.parts.style import CSS
from omniq.audit.parts.verdicts import verdicts
from omniq.audit.result import Result

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""A browser that heeds it loads nothing and runs nothing, whatever the page should hold."""

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
    body = [header(result), contents([key for key, part in made.items() if part]), tag("main", made.values())]
    title = "What quantisation did to what a model knows"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title}: {result.facts.get('data', result.run_id)}"),
        tag("style", Markup(CSS)),
    ]
    page = tag("html", [tag("head", head), tag("body", body)], lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def header(result: Result) -> Markup:
    """The title, and what was asked of how many models when."""
    facts = result.facts
    said = [f"{len(result.models)} models"]
    said += [str(facts[name]) for name in ("data", "items") if name in facts]
    said += [f"preset {facts['preset']}"] if "preset" in facts else []
    said += [str(facts["date"])] if "date" in facts else []
    return tag("header", [tag("h1", "What quantisation did to what this model knows"), tag("p", " · ".join(said))])


def contents(keys: list[str]) -> Markup:
    """Links to the parts that the page has."""
    return tag("nav", listed(tag("a", SECTIONS[key][0], href=f"#{key}") for key in keys))
