"""The report's one style sheet: light and dark by the reader's setting, and on paper.

No font, picture or script is fetched: system fonts, inline SVG, no script at all.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1d1f23; --soft: #5c616b; --rule: #d9dade; --panel: #f3f3ef;
  --right: #0c6130; --good: #0f6b36; --bad: #a3351c;
  --s0: #2458a6; --s1: #c2571a; --s2: #6b4c9a; --s3: #5d6b2c;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --ink: #e6e6e3; --soft: #a0a5af; --rule: #363a42; --panel: #1f2227;
    --good: #6ccb92; --bad: #f0917a; --s0: #7fb0f5; --s1: #f0a065; --s2: #bda1ea; --s3: #b5c57e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 var(--serif); -webkit-text-size-adjust: 100%; }
main { max-width: 1240px; margin: 0 auto; padding: 44px 28px 72px; }
h1 { font-size: 33px; line-height: 1.18; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 23px; line-height: 1.25; margin: 56px 0 10px; padding-top: 16px;
  border-top: 1px solid var(--rule); }
p, ul, dl { margin: 0 0 14px; }
p, li, dd { max-width: 76ch; overflow-wrap: break-word; }
.kicker { font: 600 13px/1.4 var(--sans); color: var(--soft); margin: 0 0 10px; }
.setting { color: var(--soft); }
.lead { font-size: 22px; line-height: 1.45; max-width: 46ch; }
.note { border-left: 3px solid var(--s1); padding: 2px 0 2px 14px; }
code { font: .84em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
var { font-style: italic; } sub { font-size: .7em; line-height: 0; }

.summary { display: grid; grid-template-columns: minmax(0, 1fr) max-content; gap: 10px 56px;
  align-items: start; margin-top: 22px; }
.summary .lead { margin: 0 0 18px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font: 15px/1.4 var(--sans); font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13.5px; padding: 0 0 8px; }
th, td { padding: 6px 0 6px 24px; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: baseline; }
thead th { font-weight: 600; border-bottom-color: var(--soft); }
td.n, th.n { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; }
td small, th small { color: var(--soft); font-size: 12.5px; font-weight: 400; }
th:first-child { padding-left: 0; }
td .after { font-weight: 650; }
td.verdict { padding-left: 8px; } td .good { color: var(--good); } td .bad { color: var(--bad); }

.legend { display: grid; grid-template-columns: 132px minmax(0, 1fr); gap: 10px 26px;
  align-items: start; }
.legend svg.grid { width: 132px; min-width: 0; height: auto; background: #7d8078; }

.picture { margin: 30px 0 46px; break-inside: avoid; }
.picture > header { margin: 0 0 10px; }
.picture h3 { font-size: 19px; line-height: 1.35; font-weight: 500; margin: 0; max-width: 90ch;
  overflow-wrap: break-word; }
.picture .source { font: 13px/1.5 var(--sans); color: var(--soft); }
.panels { display: grid; gap: 22px;
  grid-template-columns: minmax(120px, 210px) repeat(2, minmax(0, 1fr)); align-items: start; }
.panels.one { grid-template-columns: minmax(120px, 300px) minmax(0, 640px); }
.panels.large { grid-template-columns: minmax(0, 1fr); }
.panels.large .seen { max-width: 340px; }
figure { margin: 0; }
figcaption { font: 14px/1.4 var(--sans); margin: 0 0 7px; }
figcaption b { font-weight: 650; } figcaption span { color: var(--soft); }
svg { display: block; }
.seen svg, svg.grid { width: 100%; height: auto; border-radius: 3px; background: var(--panel); }
.scroll { overflow-x: auto; }
svg.grid { min-width: calc(var(--columns) * 34px); font-family: var(--sans); user-select: text; }
.pixels { image-rendering: pixelated; }
svg.grid text { fill: #fff; text-anchor: middle; }
svg.grid text { stroke: #000; stroke-opacity: .45; stroke-width: 2px; paint-order: stroke; }
g.other rect { fill: #0c0e12; fill-opacity: .55; }
g.right rect { fill: var(--right); fill-opacity: .74; stroke: #b9f0cd; stroke-width: 2; }
g.right text { font-weight: 700; }
g.other:hover rect, g.right:hover rect { fill-opacity: .1; }

.charts { display: grid; gap: 30px 26px;
  grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); }
.charts figure { break-inside: avoid; display: flex; flex-direction: column;
  justify-content: space-between; }
svg.chart { width: 100%; height: auto; font: 11px var(--sans); overflow: visible; }
.rule { stroke: var(--rule); stroke-width: 1; } .tick { fill: var(--soft); }
.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
.end { font-weight: 650; }
.line.s0 { stroke: var(--s0); } .dot.s0, .end.s0 { fill: var(--s0); }
.line.s1 { stroke: var(--s1); } .dot.s1, .end.s1 { fill: var(--s1); }
.line.s2 { stroke: var(--s2); } .dot.s2, .end.s2 { fill: var(--s2); }
.line.s3 { stroke: var(--s3); } .dot.s3, .end.s3 { fill: var(--s3); }
.key { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin: 0 6px 4px 0;
  vertical-align: middle; background: var(--s0); }
.key.s1 { background: var(--s1); } .key.s2 { background: var(--s2); }
.key.s3 { background: var(--s3); }
.keys span { margin-right: 14px; white-space: nowrap; }

dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 22px;
  font: 14.5px/1.5 var(--sans); }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; max-width: none; }

@media (max-width: 900px) {
  main { padding: 26px 16px 48px; }
  h1 { font-size: 27px; } .lead { font-size: 19px; }
  .panels, .panels.one { grid-template-columns: minmax(0, 1fr); }
  .seen { max-width: 240px; }
  .summary { grid-template-columns: minmax(0, 1fr); }
  table { font-size: 13.5px; } th, td { padding-left: 10px; }
  thead th.n { white-space: normal; }
  .legend { grid-template-columns: minmax(0, 1fr); }
  dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; } dl.facts dd { margin-bottom: 8px; }
}
@media print {
  @page { margin: 15mm; }
  body { font-size: 10.5pt; background: #fff; }
  main { max-width: none; padding: 0; }
  .summary { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .panels { grid-template-columns: 104px repeat(2, minmax(0, 1fr)); gap: 12px; }
  .panels.large { grid-template-columns: minmax(0, 1fr); } .panels.large .seen { max-width: 120px; }
  .charts { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  svg.grid { min-width: 0; }
  .scroll, .wide { overflow: visible; }
  svg, rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, figcaption, .intro { break-after: avoid; }
}
"""
