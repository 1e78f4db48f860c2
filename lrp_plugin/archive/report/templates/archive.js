"use strict";
const {classes, rows, masks} = window.ARCHIVE;
const PER_PAGE = 50;
const [ID, LABEL, PREDICTION, ERROR, PICTURE, BAD, MAPS] = [0, 1, 2, 3, 4, 5, 6];
const element = (id) => document.getElementById(id);
const className = (number) => number === null ? "none" : classes[number] ?? `output ${number}`;
const percent = (value) => value === null ? "\u2013" : `${(100 * value).toFixed(1)}\u00a0%`;
const number = (value) => value === null ? "\u2013" : Number(value.toPrecision(3)).toString().replace("-", "\u2212");

function fill(select, values) {
  for (const [value, text] of values) select.add(new Option(text, value));
}
const distinct = (values) => [...new Set(values)];
fill(element("prediction"), distinct(rows.map((row) => row[PREDICTION])).filter((n) => n !== null).sort((a, b) => a - b).map((n) => [n, className(n)]));
fill(element("label"), distinct(rows.map((row) => row[LABEL])).filter((name) => name !== null).sort().map((name) => [name, name]));
fill(element("method"), distinct(rows.flatMap((row) => row[MAPS].map((map) => map[0]))).map((name) => [name, name]));
for (const id of ["low", "high"]) element(id).disabled = !masks;
if (!classes.length) element("kind").querySelector("[value=wrong]").remove();

const mapOf = (row, method) => row[MAPS].find((map) => map[0] === method);
// A row without the value goes behind all that have it, whichever way they are sorted.
const least = (value) => value ?? Infinity;
const ORDER = {
  worst: (a, b) => b[BAD] - a[BAD],
  best: (a, b) => a[BAD] - b[BAD],
  share: (a, b, method) => least(mapOf(a, method)?.[4]) - least(mapOf(b, method)?.[4]) || 0,
  logit: (a, b, method) => least(-mapOf(a, method)?.[2] || null) - least(-mapOf(b, method)?.[2] || null) || 0,
  id: (a, b) => a[ID] < b[ID] ? -1 : 1,
};

function chosen() {
  const value = (id) => element(id).value;
  const low = Number(value("low")) / 100, high = Number(value("high")) / 100, method = value("method");
  const anyShare = low <= 0 && high >= 1;
  const found = rows.filter((row) =>
    (!value("find") || row[ID].toLowerCase().includes(value("find").toLowerCase())) &&
    (value("prediction") === "" || String(row[PREDICTION]) === value("prediction")) &&
    (value("label") === "" || row[LABEL] === value("label")) &&
    (value("kind") !== "failed" || row[ERROR] !== null) &&
    (value("kind") !== "wrong" || verdict(row) === "wrong") &&
    (anyShare || row[MAPS].some((map) => map[0] === method && map[4] !== null && map[4] >= low && map[4] <= high)));
  const order = ORDER[value("sort")];
  return found.sort((a, b) => order(a, b, method));
}

// Without the classes' names a label cannot be compared.
const verdict = (row) => !classes.length || row[ERROR] !== null || row[LABEL] === null ? "" : row[LABEL] === className(row[PREDICTION]) ? "right" : "wrong";

function make(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function card(row) {
  const head = make("h3", {}, row[ID]);
  if (row[PREDICTION] !== null) head.append(make("span", {className: verdict(row)}, `predicted ${className(row[PREDICTION])}`));
  if (row[LABEL] !== null) head.append(make("span", {}, `label ${row[LABEL]}`));
  const made = make("article", {className: "case"}, head);
  if (row[ERROR] !== null) made.append(make("p", {className: "error"}, row[ERROR]));
  if (row[PICTURE] !== null) made.append(make("img", {loading: "lazy", decoding: "async", src: row[PICTURE], alt: `${row[ID]} and its maps`, width: 160 * (1 + row[MAPS].length), height: 160}));
  if (row[MAPS].length) {
    const body = row[MAPS].map((map) => make("tr", {}, make("td", {}, map[0]), make("td", {}, className(map[1])), make("td", {className: "n"}, number(map[2])), make("td", {className: "n"}, number(map[3])), make("td", {className: "n"}, percent(map[4]))));
    const names = ["Method", "Explained", "Output", "Sum", "Share"].map((name, place) => make("th", {scope: "col", className: place > 1 ? "n" : ""}, name));
    made.append(make("div", {className: "scroll"}, make("table", {}, make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...body))));
  }
  return made;
}

let found = [], page = 0;
function show() {
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  element("cases").replaceChildren(...found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(card));
  element("count").textContent = `${found.length} of ${rows.length} listed`;
  element("page").textContent = `page ${page + 1} of ${pages}`;
  element("previous").disabled = page === 0;
  element("next").disabled = page === pages - 1;
}
function update() { found = chosen(); page = 0; show(); }
for (const control of document.querySelectorAll(".controls input, .controls select")) control.addEventListener("input", update);
const turn = (step) => () => { page += step; show(); element("examples").scrollIntoView(); };
element("previous").addEventListener("click", turn(-1));
element("next").addEventListener("click", turn(1));
update();
