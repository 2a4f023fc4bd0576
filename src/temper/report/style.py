"""The report's style sheet: wide screens, phones from 360 px, dark mode, and paper."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #f5f7f9; --card: #ffffff; --ink: #1c2630; --soft: #566471; --rule: #dde3e8; --warn: #8a4b00;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.75rem; line-height: 1.2; text-wrap: balance; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 36px 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 8px; overflow-wrap: anywhere; }
p { margin: 0 0 12px; max-width: 46em; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px; }
.swatch {
  display: inline-block; width: .8em; height: .8em; border-radius: 3px; margin-right: .5em;
}

.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { caption-side: bottom; text-align: left; padding-top: 10px; }
th, td { padding: 10px 14px 10px 0; text-align: left; vertical-align: top; }
thead th { font-size: .8125rem; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--rule); }
thead th { vertical-align: bottom; }
tbody th { font-weight: 600; overflow-wrap: anywhere; min-width: 8em; }
tbody tr + tr > * { border-top: 1px solid var(--rule); }
.value { font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.range { display: block; font-size: .78rem; color: var(--soft); font-variant-numeric: tabular-nums; }
.range { white-space: nowrap; line-height: 1.4; }
.unknown { color: var(--warn); font-weight: 600; }
.bar { display: block; width: 100%; max-width: 150px; height: 10px; margin: 2px 0; }
.bar, .swatch { print-color-adjust: exact; }
.track { fill: var(--rule); }

.figures { columns: 2 420px; column-gap: 16px; }
.figures figure { break-inside: avoid; margin-bottom: 16px; }
.figures + .card, .card + .card { margin-top: 16px; }
figure { margin: 0; }
.plot { display: block; width: 100%; max-width: 620px; height: auto; margin: 0 auto; }
figcaption { margin-top: 8px; }

.samples { display: grid; gap: 12px; }
.samples .card { margin-top: 0; }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
.strip div { font-size: .78rem; line-height: 1.35; color: var(--soft); overflow-wrap: anywhere; }
.strip b { display: block; color: var(--ink); font-weight: 600; }
.strip img { display: block; width: 100%; height: auto; border-radius: 4px; margin-bottom: 6px; }
.pixelated { image-rendering: pixelated; }

details { margin-bottom: 8px; padding: 12px 16px; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(6em, max-content) 1fr; gap: 4px 16px; margin: 12px 0 0; }
dl { font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.read { margin-top: 16px; }
.read h2 { margin: 0 0 8px; }
.read dl { display: block; columns: 2 380px; column-gap: 32px; margin: 0; }
.read dl div { break-inside: avoid; padding-bottom: 10px; }
.read dt { color: var(--ink); font-weight: 600; }

@media screen and (max-width: 700px) {
  h1 { font-size: 1.4rem; }
  main { padding: 16px 12px 32px; }
  .card { padding: 12px; }
  .results, .results tbody, .results tr, .results th, .results td, .results caption { display: block; }
  .results thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .results tbody th { padding: 12px 0 4px; font-size: 1.05rem; }
  .results td { display: grid; grid-template-columns: 1fr auto; gap: 0 12px; padding: 6px 0 8px; }
  .results td::before { content: attr(data-column); font-size: .875rem; align-self: center; }
  .results td div { display: contents; }
  .results .range + .range { text-align: right; }
  .results .unknown { grid-column: 1 / -1; }
  .results .bar { grid-column: 1 / -1; max-width: none; }
  .results tbody tr + tr > td { border: 0; }
  dl { display: block; }
  dd { margin-bottom: 8px; }
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #11161b; --card: #1b2229; --ink: #e6ebef; --soft: #a3b0bb; --rule: #33404b; --warn: #ffb454;
  }
  /* Figures are drawn on white: turn lightness around and keep the hues, also of what refers to them. */
  .plot, .own, .swatch { filter: invert(1) hue-rotate(180deg); }
}
@media print {
  @page { margin: 14mm 12mm; }
  :root { --page: #ffffff; color-scheme: light; }
  html { font-size: 78%; }
  body { font-size: 1rem; }
  main { max-width: none; padding: 0; }
  h2, h3, .soft { break-after: avoid; }
  p, figure, tr, .read, details { break-inside: avoid; }
  .card { border-color: #c5ced6; }
  .scroll { overflow: visible; }
  .figures { columns: 2; }
  .read dl, .facts { columns: 2; }
  .facts h2 { column-span: all; }
  .samples { grid-template-columns: repeat(3, 1fr); }
  .samples .card { padding: 8px; }
  details::details-content { display: block; content-visibility: visible; block-size: auto; }
  summary { list-style: none; }
}
"""
