"""Style and script of the page: no address outside of it, light and dark, readable on a phone and on paper."""

STYLE = """
:root { color-scheme: light dark; --ground: #fbfbf9; --card: #ffffff; --ink: #1d2429; --soft: #5a656e; --line: #dde2e6;
  --accent: #00798c; --problem: #b3261e; --note: #8a5a00; --fine: #23683b; --mark: #fff3d6; --bad: #fde7e5;
  --good: #e4f4ea; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181b; --card: #1d2327; --ink: #e6eaed; --soft: #a3aeb7;
  --line: #343d44; --accent: #58c4d6; --problem: #ff9a8f; --note: #f0c060; --fine: #7fd39b; --mark: #4a3a10;
  --bad: #4a1f1c; --good: #16382a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.1rem; }
header { padding-top: 2.2rem; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.32rem; margin: 2.8rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1.02rem; margin: 0; }
p { max-width: 46rem; margin: .5rem 0; }
.lead, figcaption, .remark, footer { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; list-style: none; padding: 0; margin: .9rem 0 0; }
a { color: var(--accent); }
code { font: .92em ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.2rem, 1fr)); gap: .8rem;
  margin: 1.2rem 0; padding: 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .75rem .9rem; }
.cards dt { color: var(--soft); font-size: .86rem; }
.cards dd { margin: 0; font-size: 1.32rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.cards dd small { display: block; font-size: .82rem; font-weight: 400; color: var(--soft); line-height: 1.35; }
.finding { background: var(--card); border: 1px solid var(--line); border-left: .36rem solid var(--soft);
  border-radius: .5rem; padding: .7rem 1rem; margin: .7rem 0; }
.finding p { margin: .25rem 0; }
.problem { border-left-color: var(--problem); } .note { border-left-color: var(--note); }
.fine { border-left-color: var(--fine); }
.kind { font-size: .74rem; font-weight: 700; letter-spacing: .05em; text-transform: uppercase; margin-right: .5rem; }
.problem .kind { color: var(--problem); } .note .kind { color: var(--note); } .fine .kind { color: var(--fine); }
.fixes { margin: .35rem 0 .1rem; padding-left: 1.2rem; }
figure { margin: 1.1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: .6rem; padding: .6rem; }
figcaption { font-size: .92rem; margin-top: .4rem; max-width: 46rem; }
.scroll { overflow: auto; max-height: 78vh; border: 1px solid var(--line); border-radius: .6rem;
  background: var(--card); }
table { border-collapse: separate; border-spacing: 0; font-size: .87rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { text-align: right; padding: .34rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.text, td.text { text-align: left; }
thead th { position: sticky; top: 0; background: var(--card); z-index: 2; border-bottom: 2px solid var(--line); }
thead button { all: unset; cursor: pointer; font-weight: 650; }
thead button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
thead th[aria-sort=ascending] button::after { content: " \\2191"; }
thead th[aria-sort=descending] button::after { content: " \\2193"; }
tbody th { position: sticky; left: 0; background: var(--card); font-weight: 500; z-index: 1; }
tr.opens > *, tr.board > * { background: var(--bad); } tr.closes > * { background: var(--good); }
tr.output > * { font-weight: 700; }
dl.terms { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; font-size: .93rem; }
dl.terms dt { font-weight: 650; } dl.terms dd { margin: 0; }
footer { padding: 2rem 1.1rem 3rem; font-size: .87rem; }
@media (max-width: 40rem) { body { font-size: 15px; } dl.terms { grid-template-columns: 1fr; }
  dl.terms dd { margin-bottom: .5rem; }
  tbody th { min-width: 7.6rem; max-width: 42vw; white-space: normal; overflow-wrap: anywhere; }
  figure img { padding: .25rem; } .cards { grid-template-columns: 1fr 1fr; } .cards dd { font-size: 1.12rem; } }
@media print { .scroll { max-height: none; overflow: visible; } nav { display: none; } body { background: #fff; } }
"""

# Sorting: a click on a head sorts by its column's keys, a second one turns the order around.
SCRIPT = """
document.querySelectorAll("table.sortable thead button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    var column = Array.prototype.indexOf.call(head.parentNode.children, head);
    var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    table.querySelectorAll("thead th").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    Array.prototype.slice.call(body.rows).sort(function (a, b) {
      var x = a.cells[column].dataset.key, y = b.cells[column].dataset.key;
      var m = parseFloat(x), n = parseFloat(y);
      return sign * (isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n);
    }).forEach(function (row) { body.appendChild(row); });
  });
});
"""
