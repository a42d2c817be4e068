"""The style of what only the report of an audit has: roles of models, verdicts, tables of figures."""

from __future__ import annotations

from omniq.audit.plots.base import COLOURS
from omniq.page.style import style_sheet

DOTS = "".join(f".dot.{role}{{background:{colour}}}\n" for role, colour in COLOURS.items())

SCREEN = f"""
.readings {{ margin: 0 0 10px; padding-left: 20px; max-width: 80ch; }}
.drivers, .meanings, .reasons {{ color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }}
.meanings, .reasons {{ padding-left: 20px; margin: 6px 0 18px; max-width: 100ch; }}
.codes {{ display: flex; flex-wrap: wrap; gap: 6px 30px; }}
.codes dt {{ font-size: .76rem; color: var(--soft); }}
.badge.found {{ color: var(--found); background: var(--found-bg); }}
.glossary {{ font-size: .88rem; }}
.glossary > div {{ display: grid; grid-template-columns: minmax(200px, max-content) 1fr; gap: 10px; padding: 2px 0; }}
.glossary dt {{ font-weight: 600; font-size: .95em; }}
.glossary dd {{ color: var(--soft); }}
.gate {{ color: var(--found); }}
table.figures, table.models {{ width: 100%; }}
table.figures tbody th {{ min-width: 180px; }}
table.figures tbody th, table.models tbody th {{ padding-left: 17px; text-indent: -17px; }}
table.models th, table.models td {{ white-space: nowrap; }}
table.models td:nth-child(2), table.models td:nth-child(3), table.models td:nth-child(7) {{ white-space: normal;
  min-width: 110px; }}
table.models td:nth-child(2) {{ min-width: 200px; }}
table.full {{ font-size: .8rem; }}
.dot {{ display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 8px;
  background: var(--soft); }}
@media (max-width: 640px) {{ .glossary > div {{ grid-template-columns: 1fr; gap: 0; }} }}
{DOTS}"""

PRINTED = """
  table.figures tbody th, table.figures td, table.full td { min-width: 0; padding-right: 7px; }
"""

CSS = style_sheet(SCREEN, PRINTED)
