"""The style sheet of a page: light and dark by the reader's settings, and plain black on white in print."""

from __future__ import annotations

SCREEN = """
:root {
  color-scheme: light dark;
  --page: #fbfbf9; --ink: #1f2123; --soft: #5d6166; --rule: #dcdcd6; --card: #ffffff; --head: #f1f1ec;
  --panel: #ffffff; --link: #0b5c94; --found: #a33b00; --found-bg: #fdebdf; --good: #17603a; --good-bg: #e2f3e8;
  --quiet-bg: #ececea;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #17191b; --ink: #e6e6e2; --soft: #a3a7ab; --rule: #37393c; --card: #1f2224; --head: #26292c;
  --panel: #e9e9e5; --link: #7cbcec; --found: #ffb48a; --found-bg: #46271a; --good: #92d8ae; --good-bg: #1c3a29;
  --quiet-bg: #313437;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 3.2rem; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
header, main, nav ul { max-width: 1120px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
header p { color: var(--soft); margin: 6px 0 18px; overflow-wrap: anywhere; }
h1 { font-size: 1.85rem; line-height: 1.2; letter-spacing: -.01em; margin: 0; }
h2 { font-size: 1.3rem; margin: 0 0 10px; letter-spacing: -.005em; }
h3 { font-size: 1.02rem; margin: 20px 0 8px; overflow-wrap: anywhere; }
nav { position: sticky; top: 0; z-index: 5; background: var(--page); border-bottom: 1px solid var(--rule);
  border-top: 1px solid var(--rule); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 20px; padding-top: 8px; padding-bottom: 8px;
  font-size: .88rem; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { margin: 38px 0; }
p { margin: 0 0 10px; max-width: 78ch; }
small { color: var(--soft); font-size: .8em; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 4px 22px 14px;
  margin: 0 0 16px; break-inside: avoid; }
.lead { font-size: 1.14rem; line-height: 1.5; margin: 12px 0; overflow-wrap: anywhere; }
.hint, figcaption { color: var(--soft); font-size: .88rem; overflow-wrap: anywhere; }
dl { margin: 0; }
dd { margin: 0; }
.badge { display: inline-block; font-size: .74rem; font-weight: 600; letter-spacing: .03em; padding: 2px 8px;
  border-radius: 4px; margin: 2px 6px 2px 0; }
.badge.good { color: var(--good); background: var(--good-bg); }
.badge.quiet { color: var(--soft); background: var(--quiet-bg); }
.wide { overflow-x: auto; margin: 0 0 14px; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 10px 0 6px; font-size: .95rem; }
th, td { text-align: left; vertical-align: top; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule); }
thead th { vertical-align: bottom; font-weight: 600; border-bottom: 2px solid var(--rule); line-height: 1.25; }
tbody th { font-weight: 500; }
td small, th small { display: block; font-weight: 400; white-space: nowrap; line-height: 1.3; }
summary small { margin-left: 6px; }
td.num { white-space: nowrap; }
td.na { color: var(--soft); }
td.muted { color: var(--soft); }
table.pairs, table.texts { width: 100%; }
table.texts td, table.pairs td { overflow-wrap: anywhere; min-width: 90px; white-space: pre-line; }
table.pairs tbody th { width: 190px; }
figure { margin: 26px 0 34px; break-inside: avoid; }
.panel { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 12px;
  overflow-x: auto; }
.plot { display: block; width: 100%; min-width: 560px; height: auto; }
.plot * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { margin-top: 8px; max-width: 92ch; }
details { border: 1px solid var(--rule); border-radius: 8px; background: var(--card); margin: 0 0 10px;
  padding: 0 16px; }
summary { cursor: pointer; padding: 9px 0; font-weight: 600; overflow-wrap: anywhere; }
details > :last-child:not(summary) { margin-bottom: 14px; }
@media (max-width: 640px) { header, main, nav ul { padding-left: 14px; padding-right: 14px; } }
"""

PRINT = """
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root { --page: #fff; --ink: #000; --soft: #444; --rule: #bbb; --card: #fff; --head: #fff; --panel: #fff; }
  nav { display: none; }
  body { font-size: 10pt; }
  header, main { max-width: none; padding: 0; }
  .wide, .panel { overflow: visible; }
  .plot { min-width: 0; }
  table { font-size: 8pt; }
  td small, th small { white-space: normal; }
  tr, .card, figure { break-inside: avoid; }
  thead { display: table-header-group; }
  h2, h3, caption { break-after: avoid; }
  a { color: inherit; }
}
"""


def style_sheet(screen: str, printed: str = "") -> str:
    """What all pages share, and rules of one kind of page: `screen` for everywhere, `printed` for paper alone."""
    return f"{SCREEN}{screen}{PRINT}@media print {{{printed}}}\n" if printed else f"{SCREEN}{screen}{PRINT}"
