// Elements and numbers. Texts become text nodes or attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

function table(caption, header, rows, kind, name) {
  const cells = (tag, row) => row.map((cell) => (cell instanceof Element && /^T[HD]$/.test(cell.tagName) ? cell : el(tag, null, cell)));
  const node = el("table", { class: kind || null },
    caption ? el("caption", null, caption) : null,
    header.length ? el("thead", null, el("tr", null, header.map((cell) =>
      cell instanceof Element && cell.tagName === "TH" ? cell : cell === "" ? el("td") : el("th", { scope: "col" }, cell)))) : null,
    el("tbody", null, rows.map((row) => el("tr", null, cells("td", row)))));
  return el("div", { class: "tabular" }, el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": caption || "Table" }, node), name ? tableTools(name, node) : null);
}

function head(text, attributes) {
  return el("th", { scope: "col", class: "number", ...attributes }, text);
}

function unseen(text) {
  return el("span", { class: "unseen" }, text);
}

function plotHead(axis) {
  return el("th", { scope: "col", class: "plotted" }, unseen("Plot"), axis);
}

function numberCell(...children) {
  return el("td", { class: "number" }, children);
}

function percent(value, digits = 2) {
  return value === null || value === undefined ? "n/a" : (100 * value).toFixed(digits);
}

function count(number) {
  return Number(number).toLocaleString("en");
}

function plural(number, one, many) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
