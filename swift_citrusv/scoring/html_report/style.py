"""How the report looks: on a screen, on a phone, in the dark, and printed."""

# Blue of Okabe and Ito and greys: what matters differs in brightness and form, too.
_LIGHT = '''
  --page: #fff; --soft: #f4f6f8; --line: #d8dde3; --grid: #e6e9ed; --text: #14181d; --dim: #56606b;
  --accent: #0072b2; --bar: #5b9fcb; --case: #8a94a0; --box: #e1e5ea; --good: #00664a; --good-page: #e9f6f1;
  --flag: #7a4300; --flag-page: #fdf0de;
'''
_DARK = '''
  --page: #13171c; --soft: #1c2229; --line: #38414b; --grid: #2a313a; --text: #e8ebee; --dim: #a4aeb9;
  --accent: #6cc0f2; --bar: #3f84b0; --case: #8792a0; --box: #38424e; --good: #7fd6b6; --good-page: #15302a;
  --flag: #f3c084; --flag-page: #3a2a14;
'''

CSS = f'''
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
''' + '''
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 0 24px 40px; max-width: 1180px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1, h2, h3, h4, p, dl, dd, figure, ul { margin: 0; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.01em; }
h2 { font-size: 21px; line-height: 1.3; margin-bottom: 14px; }
h3 { font-size: 16px; line-height: 1.3; margin: 26px 0 8px; overflow-wrap: anywhere; }
h4 { font-size: 14px; line-height: 1.35; overflow-wrap: anywhere; }
p { margin: 8px 0; max-width: 85ch; overflow-wrap: anywhere; }
a { color: var(--accent); }
code { font: .92em ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.dim { color: var(--dim); font-weight: 400; }
.over { color: var(--accent); font-weight: 600; font-size: 13px; letter-spacing: .06em; text-transform: uppercase;
  margin: 32px 0 4px; }
.files { color: var(--dim); } .file { color: var(--text); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--soft); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; min-width: 0; }
.tile:first-child { border-color: var(--accent); }
.tile dt { font-size: 13px; color: var(--dim); overflow-wrap: anywhere; }
.tile strong { display: block; font-size: 26px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { font-size: 13px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; padding: 10px 0; border-block: 1px solid var(--line);
  font-size: 14px; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
section { padding-top: 34px; }
.good { color: var(--good); background: var(--good-page); padding: 10px 14px; border-radius: 8px; max-width: none; }

.scroll { overflow-x: auto; margin: 0 0 8px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; min-width: min(100%, 640px); }
.caption { color: var(--dim); font-size: 13px; margin-bottom: 2px; }
th, td { padding: 6px 0 6px 18px; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child { text-align: left; padding-left: 0; font-weight: 600; }
tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 90px; max-width: 320px; }
thead th { font-weight: 600; font-size: 13px; color: var(--dim); border-bottom-color: var(--dim); }
td br + span { font-size: 12px; }
table.words td:last-child, table.words th:last-child, table.flags td:last-child, table.flags th:last-child {
  text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.words td:last-child { width: 100%; }
table.words tbody th, table.flags tbody th { white-space: nowrap; }
table.words ul { color: var(--dim); font-size: 13px; }
ul { padding-left: 18px; }
li { margin: 2px 0; }

.beside { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 12px 48px; align-items: start; }
figcaption { font-size: 13px; color: var(--dim); padding-top: 4px; }
svg { display: block; overflow: visible; width: 100%; }
svg text { fill: var(--dim); font-size: 12px; font-variant-numeric: tabular-nums; }
svg text.label { font-size: 12.5px; }
.grid { stroke: var(--grid); stroke-width: 1; }
.interval { stroke: var(--accent); stroke-width: 2; }
.value { fill: var(--accent); }
.bar { fill: var(--bar); stroke: var(--page); stroke-width: 1; }
.median { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 4 3; }
.whisker { stroke: var(--case); stroke-width: 1.5; }
.box { fill: var(--box); stroke: var(--case); }
.middle { stroke: var(--text); stroke-width: 2; }
.case { fill: none; stroke: var(--case); stroke-width: 1.3; }
.forest + .forest { margin-top: 10px; }
p.dim { font-size: 13px; }
.row { display: grid; grid-template-columns: minmax(0, 11em) minmax(0, 1fr) 11.5em; column-gap: 18px;
  align-items: stretch; font-size: 14px; break-inside: avoid; }
.row .name { align-self: center; overflow-wrap: anywhere; line-height: 1.3; padding: 3px 0; }
.row .name .dim { font-size: 12.5px; white-space: nowrap; }
.row .figures { align-self: center; font-size: 13px; font-variant-numeric: tabular-nums; white-space: nowrap; }
/* The drawing is as high as the row, whatever the name takes, so that the grid has no gaps. */
.track { position: relative; min-height: 30px; }
.track svg[role] { position: absolute; inset: 0; height: 100%; }
.boxed .track { min-height: 44px; }
.beside .row { grid-template-columns: minmax(0, 10.5em) minmax(0, 1fr); padding-right: 10px; }
.beside .row .figures { display: none; }
.bars .row { grid-template-columns: 3.5em minmax(0, 1fr) 8.5em; }
.bars .name { font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 22px 40px; }
.charts h3 { margin-top: 0; }
.charts figure { min-width: 0; break-inside: avoid; }
.histogram { display: grid; grid-template-columns: 46px minmax(0, 1fr); padding-right: 14px; }
.unit { grid-column: 1 / -1; font-size: 12.5px; padding-bottom: 8px; }

.cards { display: grid; gap: 18px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.cards.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; min-width: 0; break-inside: avoid;
  padding: 12px 14px; }
.card .title { display: flex; gap: 10px; justify-content: space-between; align-items: baseline; }
.card h4 { min-width: 0; }
.card .score { flex: none; font-size: 13px; font-weight: 600; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card p { font-size: 12.5px; margin: 2px 0 8px; }
.card img { display: block; width: calc(100% + 28px); margin: 0 -14px 8px; height: auto; max-height: 480px;
  object-fit: contain; background: var(--soft); }
.card img.small { image-rendering: pixelated; }
.flag { background: var(--flag-page); color: var(--flag); border-radius: 9px; padding: 1px 8px; margin-right: 4px;
  white-space: nowrap; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
dl > div:not(.tile) { display: grid; grid-template-columns: minmax(0, 8.5em) minmax(0, 1fr); gap: 14px; padding: 5px 0;
  border-bottom: 1px solid var(--grid); }
dl > div:not(.tile):last-child { border-bottom: none; }
dt { color: var(--dim); overflow-wrap: anywhere; }
section > dl { font-size: 14px; }
section > dl > div:not(.tile) { grid-template-columns: minmax(0, 13em) minmax(0, 1fr); }
section > dl dt { color: var(--text); font-weight: 600; }
.card dl { font-size: 13px; }
.card dl > div { padding: 3px 0; }
dd { overflow-wrap: anywhere; min-width: 0; }
summary { cursor: pointer; }
.fold { margin: 10px 0; } .fold > summary, .more, .less { color: var(--accent); font-size: 14px; }
.more, .less { font-size: 13px; white-space: nowrap; margin-left: 6px; }
.long > summary { list-style: none; } .long > summary::-webkit-details-marker { display: none; }
.long[open] .start, .long[open] .more, .long:not([open]) .less { display: none; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
footer { margin-top: 40px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--dim); font-size: 13px; }

@media (max-width: 820px) {
  .beside { grid-template-columns: minmax(0, 1fr); }
}
@media (max-width: 600px) {
  body { padding: 0 14px 30px; }
  h1 { font-size: 26px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; }
  .tile { padding: 9px 12px; } .tile strong { font-size: 21px; }
  section > .forest .row, figure > .forest:not(.bars) .row { grid-template-columns: minmax(0, 1fr) auto;
    padding: 0 10px; }
  .row .name { grid-area: 1 / 1; padding-top: 6px; }
  .row .figures { grid-area: 1 / 2; align-self: end; padding: 3px 0; }
  .forest:not(.bars) .track, .forest .below { grid-area: 2 / 1 / 3 / 3; }
  .beside .row .figures { display: block; }
  .bars .row { grid-template-columns: 3em minmax(0, 1fr) 8em; column-gap: 8px; }
  .bars .row .name, .bars .row .figures { grid-area: auto; align-self: center; }
  table { font-size: 13px; } th, td { padding-left: 10px; } tbody th { min-width: 70px; }
  .card .title { flex-wrap: wrap; column-gap: 10px; }
  section > dl > div:not(.tile) { grid-template-columns: minmax(0, 1fr); gap: 0; }
}
@page { margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { padding-top: 18px; }
  h2, h3, .caption, summary { break-after: avoid; }
  tr, .tile, figure { break-inside: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; } th, td { padding-left: 10px; white-space: normal; }
  .cards, .cards.wide { grid-template-columns: 1fr 1fr; }
  /* Paper has no clicks: what is folded stands open. */
  details::details-content { content-visibility: visible; display: block; block-size: auto; opacity: 1; }
  .long .start, .more, .less { display: none !important; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
'''
