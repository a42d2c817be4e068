"""The style of what only the report of a run has: key figures, and cells coloured by an error or by bits."""

from __future__ import annotations

from omniq.page.style import style_sheet

STEPS = (1.0, 2.0, 4.0, 6.0, 9.0, 13.0, 20.0, 35.0, 70.0)
"""Errors in per cent at which the next colour of a heat map begins: the same in every report, so that two compare."""

SHADES = "".join(f"td.h{i}{{background:rgba(214,84,6,{0.03 + 0.075 * i:.3f})}}\n" for i in range(len(STEPS) + 1))
BITS = "".join(f"td.b{bits}{{background:rgba(0,114,178,{0.08 * (bits - 1):.2f})}}\n" for bits in range(2, 9))

SCREEN = f"""
.keys {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 18px; }}
.keys > div {{ background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px; }}
.keys dt {{ font-size: .78rem; color: var(--soft); }}
.keys dd {{ font-size: 1.3rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }}
.keys small {{ display: block; font-weight: 400; font-size: .8rem; line-height: 1.35; }}
pre {{ background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px 14px;
  margin: 6px 0 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .84rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }}
.notices {{ padding-left: 20px; max-width: 90ch; }}
.notices li {{ margin: 0 0 5px; overflow-wrap: anywhere; }}
table.heat {{ font-size: .78rem; border-collapse: separate; border-spacing: 2px; }}
table.heat td {{ text-align: center; padding: 2px 8px; border: 0; border-radius: 3px; min-width: 44px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
table.heat th {{ border: 0; padding: 2px 8px 2px 0; white-space: nowrap; }}
table.heat thead th {{ text-align: center; font-size: .95em; }}
table.heat thead th small {{ white-space: nowrap; }}
table.loaders td, table.loaders th {{ min-width: 84px; }}
table.numbers td {{ white-space: nowrap; text-align: right; padding-right: 16px; }}
table.numbers thead th + th {{ text-align: right; padding-right: 16px; }}
table.numbers td.names {{ white-space: normal; text-align: left; overflow-wrap: anywhere; min-width: 160px; }}
{SHADES}{BITS}"""

PRINTED = """
  .keys > div { padding: 4px 8px; }
  table.heat { font-size: 7pt; border-spacing: 1px; }
  table.heat td, table.heat th { padding: 1px 5px; }
  section { margin: 20px 0; }
"""

CSS = style_sheet(SCREEN, PRINTED)
