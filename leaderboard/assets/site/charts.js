// How sure ranks and numbers are, scores against size or date, and strengths by kind of task.

const SHOWN = 12;
const WIDE = 640;
const TALL = 300;
const NAMES = 190;

function charts(board, entries) {
  const order = [...entries].sort(compareOrder);
  return el("div", { class: "charts" }, [forest(board, order), scatter(board, order), kindPlot(board, order)].filter(Boolean));
}

function figure(name, heading, told, drawn, controls) {
  return el("figure", { class: "panel chart" }, el("figcaption", null, el("strong", null, heading), told ? el("span", { class: "quiet" }, ` ${told}`) : null), controls, el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": heading }, drawn), figureTools(name));
}

function drawing(width, height, title, told, ...children) {
  return svg("svg", { class: "plot drawing", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}. ${told}` }, svg("title", null, title), svg("desc", null, told), children);
}

function shortName(name, most = 26) {
  return name.length > most ? `${name.slice(0, most - 1)}…` : name;
}

function forestOf(board, order) {
  // What can be drawn with its interval: mean ranks, or a task's primary metric.
  const rows = primaryRows(board, route.protocol);
  const row = rows.find((one) => one.task === route.forest);
  const ranked = order.filter((entry) => entry.rank);
  const options = [...(ranked.length > 1 ? [["", "Mean rank"]] : []), ...rows.map((one) => [one.task, taskOf(board, one.task).title])];
  if (!row && ranked.length > 1) return { options, title: "Mean rank", told: "1 is best; the line holds 95 % of the ranks when test cases are drawn again", low: 1, high: Math.max(2, ...ranked.map((entry) => entry.rank[2])), lines: ranked.map((entry) => [entry, ...entry.rank]) };
  const chosen = row || rows[0];
  if (!chosen) return null;
  const lines = order.map((entry) => [entry, chosen.cells[entry.place]]).filter(([, cell]) => cell && cell.value !== null)
    .map(([entry, cell]) => [entry, 100 * cell.value, ...(cell.ci || [null, null]).map((end) => (end === null ? null : 100 * end))]).sort((one, other) => other[1] - one[1]);
  return { options, chosen: chosen.task, title: taskOf(board, chosen.task).title, told: `${metricTitle(chosen.metric)}, with 95 % intervals`, low: 0, high: 100, lines };
}

function forest(board, order) {
  const found = forestOf(board, order);
  if (!found || !found.lines.length) return null;
  const { low, high, title } = found;
  const lines = found.lines.slice(0, SHOWN * 2);
  const x = (value) => NAMES + ((value - low) / (high - low)) * (WIDE - NAMES - 14);
  const height = LINE * lines.length + 18;
  const step = Math.max(1, Math.ceil((high - low) / 8 / (high > 50 ? 25 : 1)) * (high > 50 ? 25 : 1));
  const ticks = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, tick) => low + tick * step);
  const texts = lines.map(([entry, value, from, to]) => `${entry.name} ${value.toFixed(1)}${from === null ? "" : ` from ${from.toFixed(1)} to ${to.toFixed(1)}`}`);
  return figure(`${found.chosen || "ranks"}-${route.protocol}`, title, found.told, drawing(WIDE, height, title, texts.join("; "),
    ticks.map((tick) => [svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 0, y2: height - 16 }), svg("text", { class: "tick", x: x(tick), y: height - 4, "text-anchor": "middle" }, String(tick))]),
    lines.map(([entry, value, from, to], line) => svg("g", null, svg("title", null, texts[line]),
      svg("text", { class: "name", x: NAMES - 12, y: LINE * line + 13, "text-anchor": "end" }, shortName(entry.name)),
      whisker(markOf(board, entry.place), x, LINE * line + LINE / 2, from, value, to)))),
  choice("forest", "Show ", found.options, found.chosen || "", (wanted) => { change({ forest: wanted }); byId("forest").focus(); }));
}

function yearOf(released) {
  const [year, month = "1", day = "1"] = released.split("-");
  return Number(year) + (Number(month) - 1) / 12 + (Number(day) - 1) / 365;
}

const ACROSS = {
  size: { title: "parameters", of: (entry) => (entry.parameters ? Math.log10(entry.parameters) : null), text: (value) => sizeText(10 ** value), step: 0.5 },
  released: { title: "date of release", of: (entry) => (entry.released ? yearOf(entry.released) : null), text: (value) => String(Math.round(value)), step: 1 },
};

function scatter(board, order) {
  const axes = Object.entries(ACROSS).filter(([, axis]) => order.filter((entry) => axis.of(entry) !== null).length > 1);
  if (!axes.length) return null;
  const [name, axis] = axes.find(([key]) => key === route.across) || axes[0];
  const tasks = primaryRows(board, route.protocol).map((row) => row.task);
  const wanted = tasks.includes(route.score) ? route.score : order.some((entry) => entry.mean !== null) ? "mean" : tasks[0];
  const points = order.map((entry) => [entry, axis.of(entry), scoreOf(board, route.protocol, wanted, entry)]).filter(([, x, y]) => x !== null && y !== null);
  const title = wanted === "mean" ? "Mean" : taskOf(board, wanted).title;
  const controls = el("div", { class: "filters" },
    choice("score", "Score", [["mean", "Mean"], ...tasks.map((task) => [task, taskOf(board, task).title])], wanted, (score) => { change({ score }); byId("score").focus(); }),
    axes.length > 1 ? choice("across", "Against", axes.map(([key, one]) => [key, one.title]), name, (across) => { change({ across }); byId("across").focus(); }) : null);
  return figure(`${wanted}-against-${name}`, `${title} against ${axis.title}`, points.length === 1 ? "of the one run of which both are known" : `of the ${points.length} runs of which both are known`, points.length ? scatterDrawing(board, points, axis, title) : el("p", { class: "quiet" }, "No run has both."), controls);
}

function scatterDrawing(board, points, axis, title) {
  const [xs, ys] = [1, 2].map((place) => points.map((point) => point[place]));
  const [low, high] = [Math.floor(Math.min(...xs) / axis.step) * axis.step, Math.ceil(Math.max(...xs) / axis.step + 0.01) * axis.step];
  const top = Math.min(1, Math.ceil(Math.max(...ys, 0.05) * 10 + 0.2) / 10);
  const x = (value) => 56 + ((value - low) / (high - low)) * (WIDE - 92);
  const y = (value) => TALL - 24 - (value / top) * (TALL - 44);
  const across = Array.from({ length: Math.round((high - low) / axis.step) + 1 }, (_, tick) => low + tick * axis.step);
  const up = [0, 0.25, 0.5, 0.75, 1].map((share) => share * top);
  const told = points.map(([entry, at, score]) => `${entry.name}: ${axis.text(at)}, ${percent(score, 1)}`).join("; ");
  return drawing(WIDE, TALL, `${title} against ${axis.title}`, told,
    across.map((tick) => [svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 8, y2: TALL - 22 }), svg("text", { class: "tick", x: x(tick), y: TALL - 6, "text-anchor": "middle" }, axis.text(tick))]),
    up.map((tick) => [svg("line", { class: tick ? "grid" : "zero", x1: 40, x2: WIDE - 26, y1: y(tick), y2: y(tick) }), svg("text", { class: "tick", x: 34, y: y(tick) + 4, "text-anchor": "end" }, percent(tick, 0))]),
    points.map(([entry, at, score], place) => svg("g", null, svg("title", null, `${entry.name}: ${axis.text(at)}, ${percent(score)}`), mark(markOf(board, entry.place), x(at), y(score)),
      place < SHOWN ? svg("text", { class: "tick", x: x(at) + (x(at) > WIDE - 170 ? -8 : 8), y: y(score) + 4, "text-anchor": x(at) > WIDE - 170 ? "end" : "start" }, shortName(entry.name, 22)) : null)));
}

function kindPlot(board, order) {
  const kinds = kindsOf(board).filter((kind) => !route.kind || route.kind === kind);
  const shown = order.filter((entry) => kinds.some((kind) => meanOfKind(board, route.protocol, kind, entry.place) !== null)).slice(0, SHOWN);
  if (!shown.length) return null;
  const left = 120;
  const x = (value) => left + value * (WIDE - left - 16);
  const height = 34 * kinds.length + 20;
  const value = (kind, entry) => meanOfKind(board, route.protocol, kind, entry.place);
  const told = kinds.map((kind) => `${KIND_TITLES[kind] || kind}: ${shown.filter((entry) => value(kind, entry) !== null).map((entry) => `${entry.name} ${percent(value(kind, entry), 1)}`).join(", ")}`).join("; ");
  return figure(`kinds-${route.protocol}`, "By kind of task", `mean of the primary metrics, ${shown.length === order.length ? "all runs" : `the first ${shown.length} runs`}`, [drawing(WIDE, height, "Scores by kind of task", told,
    SHARES.map((tick) => [svg("line", { class: tick ? "grid" : "zero", x1: x(tick / 100), x2: x(tick / 100), y1: 4, y2: height - 16 }), svg("text", { class: "tick", x: x(tick / 100), y: height - 3, "text-anchor": "middle" }, String(tick))]),
    kinds.map((kind, line) => {
      const y = 34 * line + 20;
      const there = shown.filter((entry) => value(kind, entry) !== null);
      const all = there.map((entry) => value(kind, entry));
      return [svg("text", { class: "name", x: left - 12, y: y + 4, "text-anchor": "end" }, KIND_TITLES[kind] || kind),
        all.length ? svg("line", { class: "span", x1: x(Math.min(...all)), x2: x(Math.max(...all)), y1: y, y2: y }) : null,
        there.map((entry) => svg("g", null, svg("title", null, `${entry.name}: ${percent(value(kind, entry))}`), mark(markOf(board, entry.place), x(value(kind, entry)), y)))];
    })), legend(board, shown)]);
}

function legend(board, entries) {
  return el("ul", { class: "legend" }, entries.map((entry) => el("li", null, legendMark(markOf(board, entry.place)), entry.name)));
}
