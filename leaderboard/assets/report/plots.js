// Plots as inline SVG: marks differ in shape as well as in colour.

const PLOT = 320;
const EDGE = 10;
const LINE = 18;

function mark(run, x, y) {
  // Twelve runs: six colours, four shapes. No run is a small grey one.
  if (run < 0) return svg("circle", { class: "mark nobody", cx: x, cy: y, r: 3.5 });
  const kind = run % 4;
  const name = `mark run-${run % 6}`;
  if (kind === 0) return svg("circle", { class: name, cx: x, cy: y, r: 4.5 });
  if (kind === 1) return svg("rect", { class: name, x: x - 4, y: y - 4, width: 8, height: 8 });
  const points = kind === 2 ? [[0, -5.5], [5, 4], [-5, 4]] : [[0, -6], [6, 0], [0, 6], [-6, 0]];
  return svg("polygon", { class: name, points: points.map(([dx, dy]) => `${x + dx},${y + dy}`).join(" ") });
}

function legendMark(run) {
  return svg("svg", { class: "key", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }, mark(run, 8, 8));
}

function along(low, high) {
  return (value) => EDGE + ((value - low) / (high - low || 1)) * (PLOT - 2 * EDGE);
}

function plot(height, label, ...children) {
  return svg("svg", { class: "plot", viewBox: `0 0 ${PLOT} ${height}`, width: PLOT, height, role: "img", "aria-label": label }, children);
}

function grid(x, ticks, height) {
  return ticks.map((tick) => svg("line", { class: tick === 0 ? "zero" : "grid", x1: x(tick), x2: x(tick), y1: 0, y2: height }));
}

function axis(x, ticks, unit = "") {
  return svg("svg", { class: "plot axis", viewBox: `0 0 ${PLOT} 16`, width: PLOT, height: 16, "aria-hidden": "true" },
    ticks.map((tick) => svg("text", { x: x(tick), y: 12, "text-anchor": "middle" }, `${tick}${unit}`)));
}

function whisker(run, x, y, low, value, high) {
  const kind = run < 0 ? "nobody" : `run-${run % 6}`;
  return [
    low === null ? null : [
      svg("line", { class: `whisker ${kind}`, x1: x(low), x2: x(high), y1: y, y2: y }),
      [low, high].map((end) => svg("line", { class: `whisker ${kind}`, x1: x(end), x2: x(end), y1: y - 4, y2: y + 4 })),
    ],
    mark(run, x(value), y),
  ];
}

const SHARES = [0, 25, 50, 75, 100];

function scorePlot(cells, title) {
  const x = along(0, 100);
  const there = cells.map((cell, run) => [cell, run]).filter(([cell]) => cell && cell.value !== null);
  const height = LINE * Math.max(1, there.length);
  const label = there.map(([cell, run]) => `${RUNS[run].name}: ${scoreText(cell)}`).join("; ");
  return plot(height, `${title}. ${label || "not scored"}`, grid(x, SHARES, height), there.map(([cell, run], line) => {
    const y = LINE * line + LINE / 2;
    const [low, high] = cell.interval ? cell.interval.map((end) => 100 * end) : [null, null];
    return [
      cell.ceiling === null ? null : svg("line", { class: "ceiling", x1: x(100 * cell.ceiling), x2: x(100 * cell.ceiling), y1: y - 8, y2: y + 8 }),
      whisker(run, x, y, low, 100 * cell.value, high),
    ];
  }));
}

function scoreText(cell) {
  if (!cell) return "";
  const interval = cell.interval ? ` [${cell.interval.map((end) => percent(end, 1)).join(", ")}]` : "";
  return `${percent(cell.value)}${interval}${cell.ceiling === null ? "" : ` of ${percent(cell.ceiling, 1)}`}`;
}

function differencePlot(row, extent, title, winner) {
  const x = along(-extent, extent);
  const values = [row.low, row.value, row.high].map((value) => 100 * value);
  return plot(LINE, `${title}: ${values[1].toFixed(2)} from ${values[0].toFixed(1)} to ${values[2].toFixed(1)}`,
    grid(x, [-extent, 0, extent], LINE), whisker(winner, x, LINE / 2, ...values));
}

function stackedBar(parts, label) {
  const total = parts.reduce((sum, [, number]) => sum + number, 0);
  let at = 0;
  return svg("svg", { class: "plot shares", viewBox: `0 0 ${PLOT} ${LINE}`, width: PLOT, height: LINE, role: "img", preserveAspectRatio: "none",
    "aria-label": `${label}: ${parts.map(([name, number]) => `${name} ${count(number)}`).join(", ")}` },
    parts.map(([name, number]) => {
      const width = total ? (PLOT * number) / total : 0;
      at += width;
      return width ? svg("rect", { class: `part ${name.replace(/[^a-z]+/g, "-")}`, x: at - width, y: 3, width, height: LINE - 6 }, svg("title", null, `${name}: ${count(number)}`)) : null;
    }));
}

function amountBar(amount, most) {
  return svg("svg", { class: "plot shares", viewBox: `0 0 ${PLOT} ${LINE}`, width: PLOT, height: LINE, "aria-hidden": "true" },
    svg("rect", { class: "amount", x: 0, y: 3, width: most ? Math.max(1, (PLOT * amount) / most) : 0, height: LINE - 6 }));
}
