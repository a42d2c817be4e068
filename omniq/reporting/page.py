"""html: the record of a run as one page that needs nothing but itself: no network, no scripts, no fonts."""

from __future__ import annotations

from omniq.page.document import contents, document
from omniq.page.markup import Markup, tag
from omniq.reporting.parts.again import again
from omniq.reporting.parts.bits import bits
from omniq.reporting.parts.blocks import blocks
from omniq.reporting.parts.layers import layers
from omniq.reporting.parts.loading import loading
from omniq.reporting.parts.made import made
from omniq.reporting.parts.quality import quality
from omniq.reporting.parts.style import CSS
from omniq.reporting.parts.told import told
from omniq.reporting.record import Record

SECTIONS = {
    "made": ("What was made", made),
    "quality": ("Quality", quality),
    "load": ("Load and serve it", loading),
    "blocks": ("Block by block", blocks),
    "layers": ("Error per layer", layers),
    "bits": ("Bits per layer", bits),
    "told": ("Notices", told),
    "again": ("Make it again", again),
}
"""In the order of the page: id -> (name in the contents, what makes it; '' where the record has nothing for it)."""


def html(record: Record) -> str:
    """The whole page; the same text for the same record."""
    parts = {key: make(record) for key, (_, make) in SECTIONS.items()}
    links = contents((key, SECTIONS[key][0]) for key, part in parts.items() if part)
    return document(title(record), [header(record), links, tag("main", parts.values())], CSS)


def title(record: Record) -> str:
    """What the page is about."""
    return f"{record.base}, quantised to {record.scheme}"


def header(record: Record) -> Markup:
    """The title, and by what the checkpoint was made when."""
    said = [f"preset {record.preset}", f"omniq {record.versions.get('omniq', '')}", record.date]
    return tag("header", [tag("h1", title(record)), tag("p", " · ".join(said))])
