"""The report's one style sheet: light and dark by the reader's setting, and light on paper.

No font, picture or script is fetched: system fonts, inline SVG, no script at all. What a patch's
neighbours are is shown by ``:hover`` and, for a finger, ``:focus``; on narrow screens at the foot
of the screen, where no finger lies on it.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1d1f23; --soft: #5c616b; --rule: #d9dade; --panel: #f3f3ef;
  --good: #0f6b36; --bad: #a3351c;
  --s0: #2458a6; --s1: #c2571a; --s2: #6b4c9a; --s3: #5d6b2c;
  --g0: #0072b2; --g1: #d55e00; --g2: #00825f; --g3: #b85f95; --g4: #7d6200; --g5: #3d94c9;
  --rest: #b9bcc2; --word: #6d727b;
  --serif: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --ink: #e6e6e3; --soft: #a0a5af; --rule: #363a42; --panel: #1f2227;
    --good: #6ccb92; --bad: #f0917a; --s0: #7fb0f5; --s1: #f0a065; --s2: #bda1ea; --s3: #b5c57e;
    --g0: #5fb0ee; --g1: #ff9152; --g2: #45cfa6; --g3: #eaa3cb; --g4: #ddc04f; --g5: #a5d8f5;
    --rest: #4d525b; --word: #a0a5af;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.55 var(--serif); -webkit-text-size-adjust: 100%; }
main { max-width: 1240px; margin: 0 auto; padding: 44px 28px 72px; }
h1 { font-size: 33px; line-height: 1.18; margin: 0 0 14px; letter-spacing: -.01em; }
h2 { font-size: 23px; line-height: 1.25; margin: 56px 0 10px; padding-top: 16px;
  border-top: 1px solid var(--rule); }
p, ul, dl { margin: 0 0 14px; }
p, li, dd { max-width: 76ch; overflow-wrap: break-word; }
.kicker { font: 600 13px/1.4 var(--sans); color: var(--soft); margin: 0 0 10px; }
.lead { font-size: 22px; line-height: 1.45; max-width: 60ch; }
.lead:empty { display: none; }
.note { border-left: 3px solid var(--s1); padding: 2px 0 2px 14px; }
.fine { font: 14px/1.5 var(--sans); color: var(--soft); max-width: 110ch; }
code { font: .84em ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
var { font-style: italic; } sub { font-size: .7em; line-height: 0; }

.wide { overflow-x: auto; margin-top: 24px; }
table { border-collapse: collapse; font: 15px/1.4 var(--sans); font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 13.5px; padding: 0 0 8px; }
th, td { padding: 6px 0 6px 24px; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: baseline; }
thead th { font-weight: 600; border-bottom-color: var(--soft); }
td.n, th.n { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; }
td small, th small { color: var(--soft); font-size: 12.5px; font-weight: 400; }
th:first-child { padding-left: 0; }
td .after { font-weight: 650; } td.soft { color: var(--soft); }
td.verdict { padding-left: 8px; white-space: nowrap; }
td .good { color: var(--good); } td .bad { color: var(--bad); }

.legend { list-style: none; padding: 0; margin: 22px 0 8px; display: grid; gap: 14px 34px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.legend li { display: grid; grid-template-columns: 78px minmax(0, 1fr); gap: 14px;
  align-items: center; font-size: 15.5px; line-height: 1.4; }
.legend li > span:only-child { grid-column: 2; }
.legend svg.grid { width: 78px; min-width: 0; height: auto; background: #7d8078; }

.picture { margin: 34px 0 50px; break-inside: avoid; }
.picture > header { margin: 0 0 10px; }
.picture h3 { font-size: 19px; line-height: 1.35; font-weight: 500; margin: 0; max-width: 90ch;
  overflow-wrap: break-word; }
.picture .source { font: 13px/1.5 var(--sans); color: var(--soft); }
.panels { display: grid; gap: 22px;
  grid-template-columns: minmax(120px, 160px) repeat(2, minmax(0, 1fr)); align-items: start; }
.panels.one { grid-template-columns: minmax(120px, 300px) minmax(0, 640px); }
.panels.large { grid-template-columns: minmax(0, 1fr); }
.panels.large .seen { max-width: 340px; }
figure { margin: 0; break-inside: avoid; }
figcaption { font: 14px/1.4 var(--sans); margin: 0 0 7px; }
figcaption b { font-weight: 650; } figcaption span { color: var(--soft); }
.panels figcaption b { font-size: 16px; } .panels figcaption span { display: block; }
svg { display: block; }
.seen svg, svg.grid { width: 100%; height: auto; border-radius: 3px; background: var(--panel); }
.stack { position: relative; }
svg.grid { font-family: var(--sans); user-select: text; }
.pixels { image-rendering: pixelated; }
svg.grid text { text-anchor: middle; }
g.other text { fill: #fff; stroke: #000; stroke-opacity: .5; stroke-width: 2px;
  paint-order: stroke; }
g.other rect { fill: #0c0e12; fill-opacity: .62; }
g.right rect { fill: #f3f6e4; fill-opacity: .93; }
g.right text { fill: #122a18; font-weight: 700; }
g.right path { fill: none; stroke: #0f6b36; stroke-width: 5; }
.edge, .outline { fill: none; stroke-linecap: square; }
.edge { stroke: #000; stroke-width: 9; } .outline { stroke: #ffa63d; stroke-width: 4.5; }

.lists { list-style: none; margin: 0; padding: 0; position: absolute; inset: 0; display: grid;
  grid-template-columns: repeat(var(--columns), 1fr); grid-auto-rows: 1fr; }
.lists li { position: relative; outline: none; }
.lists li:hover, .lists li:focus { box-shadow: 0 0 0 3px var(--s0); }
.lists div { display: none; position: absolute; z-index: 2; top: calc(100% + 6px); left: 0;
  width: 250px; padding: 9px 12px 10px; background: var(--paper); color: var(--ink);
  border: 1px solid var(--soft); border-radius: 4px; font: 14px/1.45 var(--sans);
  box-shadow: 0 6px 20px rgb(0 0 0 / .3); pointer-events: none; }
.lists .u div { top: auto; bottom: calc(100% + 6px); } .lists .l div { left: auto; right: 0; }
.lists li:hover div, .lists li:focus div { display: block; }
.lists:hover li:focus:not(:hover) div { display: none; }
.lists u { display: block; text-decoration: none; color: var(--soft); font-size: 12.5px; }
.lists i { display: flex; justify-content: space-between; font-style: normal; padding-left: 18px; }
.lists i.y { font-weight: 700; }
.lists i.y::before { content: "✓"; position: absolute; left: 12px; }
.lists i b { font-weight: 400; font-variant-numeric: tabular-nums; color: var(--soft); }
.lists em { display: block; margin-top: 5px; color: var(--soft); font-size: 12.5px;
  font-style: normal; }

.maps { display: grid; gap: 26px; grid-template-columns: repeat(3, minmax(0, 1fr));
  margin: 18px 0; align-items: end; }
.maps figure { break-inside: avoid; }
.maps figcaption > span { display: block; }
svg.map { width: 100%; height: auto; background: var(--panel); border-radius: 3px; }
svg.point { display: inline-block; width: 15px; height: 15px; vertical-align: -2px;
  margin-right: 4px; background: none; }
svg.map .word { fill: none; stroke: var(--word); stroke-width: .8; }
svg.map .rest { fill: var(--rest); }
svg.map .v0 { fill: var(--s1); } svg.map .v1 { fill: var(--s0); }
svg.map .v0, svg.map .v1 { fill-opacity: .75; }
.g0 { fill: var(--g0); } .g1 { fill: var(--g1); } .g2 { fill: var(--g2); }
.g3 { fill: var(--g3); } .g4 { fill: var(--g4); } .g5 { fill: var(--g5); }
svg.map text { font: 700 15px var(--sans); stroke: var(--panel); stroke-width: 4px;
  paint-order: stroke; }
svg.map .home { stroke: var(--ink); stroke-width: .8; }

.charts { display: grid; gap: 30px 26px;
  grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); }
.charts figure { break-inside: avoid; display: flex; flex-direction: column;
  justify-content: space-between; }
svg.chart { width: 100%; height: auto; font: 11px var(--sans); overflow: visible; }
.rule { stroke: var(--rule); stroke-width: 1; } .tick { fill: var(--soft); }
.mark { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
.line.s0 { stroke-width: 2.2; }
.end { font-weight: 650; } .end .name { font-weight: 500; }
.line.s0 { stroke: var(--s0); } .dot.s0, .end.s0 { fill: var(--s0); }
.line.s1 { stroke: var(--s1); } .dot.s1, .end.s1 { fill: var(--s1); }
.line.s2 { stroke: var(--s2); } .dot.s2, .end.s2 { fill: var(--s2); }
.line.s3 { stroke: var(--s3); } .dot.s3, .end.s3 { fill: var(--s3); }
.key { display: inline-block; width: 18px; height: 3px; border-radius: 2px; margin: 0 6px 4px 0;
  vertical-align: middle; background: var(--s0); }
.key.s1 { background: var(--s1); } .key.s2 { background: var(--s2); }
.key.s3 { background: var(--s3); }
.keys { font: 14px/1.6 var(--sans); } .keys span { margin-right: 14px; white-space: nowrap; }

dl.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 5px 22px;
  font: 14.5px/1.5 var(--sans); }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; max-width: none; }

@media screen and (max-width: 900px) {
  main { padding: 26px 16px 48px; }
  h1 { font-size: 27px; } .lead { font-size: 19px; }
  .panels, .panels.one { grid-template-columns: minmax(0, 1fr); }
  .seen { max-width: 240px; }
  .scroll { overflow-x: auto; } .stack { min-width: calc(var(--columns) * 42px); }
  table { font-size: 13.5px; } th, td { padding-left: 10px; }
  thead th.n { white-space: normal; }
  .maps { grid-template-columns: minmax(0, 1fr); }
  .lists div, .lists .u div, .lists .l div { position: fixed; left: 8px; right: 8px; bottom: 8px;
    top: auto; width: auto; font-size: 15px; }
  dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; } dl.facts dd { margin-bottom: 8px; }
}
@media screen and (max-width: 480px) {
  table .soft { display: none; }
  td.n, th.n { padding-left: 8px; }
  td.verdict { white-space: normal; } td small { font-size: 11.5px; }
}
@media print {
  :root { color-scheme: light; }
  @page { margin: 14mm; }
  body { font-size: 10.5pt; background: #fff; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 20pt; } .lead { font-size: 13pt; }
  h2 { margin-top: 24px; font-size: 14pt; }
  table { font-size: 9.5pt; } th, td { padding: 3px 0 3px 12px; }
  .legend .screen, .lists { display: none; }
  .legend { grid-template-columns: 1fr 1fr; gap: 8px 20px; margin: 8px 0; }
  .legend li { font-size: 9.5pt; grid-template-columns: 52px minmax(0, 1fr); gap: 10px; }
  .legend svg.grid { width: 52px; }
  .picture { margin: 0 0 16px; padding-top: 2px; position: relative; }
  .picture > header { min-height: 84px; padding-right: 104px; margin: 0; }
  .picture h3 { font-size: 11.5pt; }
  .panels, .panels.one { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
  .panels .seen { position: absolute; top: 0; right: 0; width: 92px; }
  .panels .seen figcaption { display: none; }
  .panels figcaption { font-size: 8pt; } .panels figcaption b { font-size: 10pt; }
  .panels.large { grid-template-columns: minmax(0, 1fr); } .panels.large .seen { max-width: none; }
  .maps { gap: 10px; break-inside: avoid; } .maps figcaption { font-size: 8pt; }
  .fine { font-size: 8.5pt; }
  .charts { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 16px; }
  .wide { overflow: visible; }
  svg, rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, figcaption, .intro, .keys { break-after: avoid; }
}
"""
