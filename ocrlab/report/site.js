"use strict";
// A click on a table's header sorts it; a field above filters it. Without scripts everything is shown, in file order.
const words = (element) => element.textContent.trim();
const number = (text) => {
  const found = text.replace(/[,\u2007\u00a0]/g, "").match(/^[-+]?\d*\.?\d+(?:e[-+]?\d+)?/i);
  return found ? parseFloat(found[0]) : NaN;
};
function sort(table, column, down) {
  const value = (row) => row.cells[column].dataset.v ?? words(row.cells[column]);
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!x || !y) return !x - !y; // empty cells last, whichever way
    const [n, m] = [number(x), number(y)];
    return (isNaN(n) || isNaN(m) ? x.localeCompare(y) : n - m) * (down ? -1 : 1);
  };
  for (const body of table.tBodies) body.append(...[...body.rows].sort(order));
}
function filtered(items, count, hides) {
  let shown = 0;
  for (const item of items) shown += !(item.hidden = hides(item));
  count.textContent = shown === items.length ? "" : `${shown} of ${items.length}`;
}
function field(table) {
  const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
  if (rows.length < 8) return;
  const [box, input, count] = ["p", "input", "output"].map((name) => document.createElement(name));
  box.className = "filter";
  Object.assign(input, { type: "search", placeholder: "filter rows" });
  input.setAttribute("aria-label", "filter the rows of the table below");
  input.oninput = () => {
    const wanted = input.value.toLowerCase();
    filtered(rows, count, (row) => !words(row).toLowerCase().includes(wanted));
  };
  box.append(input, count);
  table.before(box);
}
for (const table of document.querySelectorAll("table.sortable, table.dataframe")) {
  const [head, body] = [table.tHead?.rows[0], table.tBodies[0]];
  if (!head || !body || body.rows.length < 2 || [...table.querySelectorAll("th, td")].some((c) => c.colSpan > 1 || c.rowSpan > 1)) continue;
  for (const th of head.cells) {
    const turn = () => {
      const down = th.ariaSort === "ascending";
      for (const other of head.cells) other.ariaSort = null;
      th.ariaSort = down ? "descending" : "ascending";
      sort(table, th.cellIndex, down);
    };
    Object.assign(th, { tabIndex: 0, title: "sort", onclick: turn, onkeydown: (e) => e.key === "Enter" && turn() });
  }
  field(table);
}
const choices = document.querySelector("form.choices");
if (choices) {
  const readings = [...document.querySelectorAll(".reading")];
  const sheet = new Map(readings.map((reading) => [reading, words(reading.parentElement).toLowerCase()]));
  choices.hidden = false;
  choices.onsubmit = (event) => event.preventDefault();
  choices.oninput = () => {
    const [outcome, wanted] = [choices.outcome.value, choices.wanted.value.toLowerCase()];
    filtered(readings, choices.querySelector("output"), (reading) =>
      (outcome && reading.dataset.outcome !== outcome) || !sheet.get(reading).includes(wanted));
    for (const page of document.querySelectorAll(".sheet")) page.hidden = !page.querySelector(".reading:not([hidden])");
  };
}
