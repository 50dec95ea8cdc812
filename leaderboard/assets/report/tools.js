// Every figure can be taken along as SVG, every table as CSV and as LaTeX.

const DRAWN_BY = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "font-weight", "text-anchor"];

function save(name, type, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function svgText(drawn) {
  // What the style sheet says of it is written into it, since it leaves the page.
  const copy = drawn.cloneNode(true);
  const nodes = [drawn, ...drawn.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, place) => {
    const style = getComputedStyle(nodes[place]);
    for (const name of DRAWN_BY) node.setAttribute(name, style.getPropertyValue(name));
    node.removeAttribute("class");
  });
  copy.setAttribute("xmlns", SVG);
  return new XMLSerializer().serializeToString(copy);
}

function figureTools(name) {
  return el("button", { type: "button", class: "tool", title: "Save this figure as SVG", onclick: (event) =>
    save(`${name}.svg`, "image/svg+xml", svgText(event.target.parentElement.querySelector("svg.plot"))) }, "SVG");
}

function cellText(cell) {
  // Small print is told apart from the number that it stands beside.
  const copy = cell.cloneNode(true);
  for (const small of copy.querySelectorAll("small")) small.prepend(" ");
  return copy.textContent.replace(/\s+/g, " ").trim();
}

function gridOf(node) {
  // Cells that reach over several rows are told in each.
  const open = [];
  return [...node.rows].map((row) => {
    const line = [];
    const cells = [...row.cells];
    for (let place = 0; cells.length || (open[place] && open[place].rows); place += 1) {
      if (open[place] && open[place].rows) { line.push(open[place].text); open[place].rows -= 1; continue; }
      const cell = cells.shift();
      const text = cellText(cell);
      open[place] = { text, rows: cell.rowSpan - 1 };
      line.push(text);
    }
    return line;
  });
}

function csvText(node) {
  // A text that a spreadsheet would compute is marked as one.
  const quoted = (text) => (/^[=+@\t]|^-(?![\d.])/.test(text) ? `'${text}` : text);
  return gridOf(node).map((line) => line.map((text) => `"${quoted(text).replaceAll('"', '""')}"`).join(",")).join("\r\n");
}

const IN_LATEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}" };

function latexText(node) {
  const [first, ...lines] = gridOf(node).map((line) => `${line.map((text) => text.replace(/[\\{}$&#%_^~]/g, (one) => IN_LATEX[one])).join(" & ")} \\\\`);
  const columns = node.rows[0] ? `l${"r".repeat(Math.max(0, gridOf(node)[0].length - 1))}` : "l";
  return ["% \\usepackage{booktabs}", `\\begin{tabular}{${columns}}`, "\\toprule", first, "\\midrule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

function tableTools(name, node) {
  return el("div", { class: "tools" },
    el("button", { type: "button", class: "tool", title: "Save this table as CSV", onclick: () => save(`${name}.csv`, "text/csv", csvText(node)) }, "CSV"),
    el("button", { type: "button", class: "tool", title: "Save this table as LaTeX", onclick: () => save(`${name}.tex`, "text/x-tex", latexText(node)) }, "LaTeX"));
}
