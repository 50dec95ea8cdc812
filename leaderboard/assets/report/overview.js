// The first screen: who is ahead, every primary metric, and how sure each number is.

const MANY = 2;
const PANEL = 240;

function primaryRow(task, protocol) {
  return task.scores[protocol].find((row) => row.metric === task.primary[protocol]) || null;
}

function ranksOf(protocol) {
  const found = DOC.ranks[protocol];
  return found && found.overall.length === RUNS.length ? found.overall : null;
}

function runsInOrder(protocol) {
  // The best first, where ranks are known.
  const ranks = ranksOf(protocol);
  const places = RUNS.map((_, run) => run);
  const of = (run) => (ranks[run] ? ranks[run][0] : RUNS.length + 1);
  return ranks ? places.sort((first, second) => of(first) - of(second) || first - second) : places;
}

function tallyOfPair(pair, protocol) {
  const verdicts = pair.rows[protocol].map((row) => row.verdict).filter(Boolean);
  const better = verdicts.filter((verdict) => verdict === "better").length;
  const worse = verdicts.filter((verdict) => verdict === "worse").length;
  return { better, worse, open: verdicts.length - better - worse };
}

// Of very many runs not all pairs are compared.
function pairOf(run, other) {
  return DOC.pairs.find(({ first, second }) => (first === run && second === other) || (first === other && second === run));
}

function winsOf(run, other, protocol) {
  const pair = pairOf(run, other);
  if (!pair) return null;
  const { better, worse, open } = tallyOfPair(pair, protocol);
  return pair.first === run ? { better, worse, open } : { better: worse, worse: better, open };
}

function headlineText(protocol) {
  if (RUNS.length < MANY) return null;
  const [best, ...others] = runsInOrder(protocol);
  const wins = others.map((other) => [other, winsOf(best, other, protocol)]).filter(([, found]) => found);
  return el("p", { class: "headline" }, legendMark(best), el("strong", null, ` ${RUNS[best].name} `),
    "is better on ", wins.slice(0, 3).map(([other, { better, worse, open }], place) => [
      place ? "; on " : "", `${better}, worse on ${worse}, undecided on ${open} tasks against `, legendMark(other), ` ${RUNS[other].name}`,
    ]), wins.length > 3 ? ["; ", el("a", { href: linkTo({ view: "compare" }) }, `${wins.length - 3} more`)] : null, ".");
}

function leakBanner() {
  const found = RUNS.filter((run, place) => TASKS.some((task) => task.leaked[place]));
  return found.length ? el("div", { class: "notice alarm" }, found.map((run) => el("p", null, legendMark(RUNS.indexOf(run)), ` ${run.name}: ${run.leak.headline}`)),
    "Such a number is marked * and leads nobody. ", el("a", { href: linkTo({ view: "audit" }) }, "See Audit"), ".") : null;
}

function primaryTable(protocol) {
  const ranks = ranksOf(protocol);
  const shown = TASKS.map((task) => [task, primaryRow(task, protocol)]).filter(([, row]) => row);
  const heads = [
    "Run", ...(ranks ? [head("Rank", { title: "Mean rank over the kinds of tasks, with the interval that holds 95 % of the ranks when test cases are drawn again" })] : []),
    ...shown.map(([task, row]) => head([taskLink(task), el("small", null, metricTitle(row.metric))])),
  ];
  const rows = runsInOrder(protocol).map((run) => [
    el("th", { scope: "row", class: "pinned" }, legendMark(run), " ", RUNS[run].name),
    ...(ranks ? [rankCell(ranks[run], DOC.ranks[protocol].unranked[run])] : []),
    ...shown.map(([task, row]) => primaryCell(task, row, run)),
  ]);
  return table(null, heads, rows, "scores primary", `primary-${protocol}`);
}

function rankCell(rank, why) {
  const text = rank ? `${rank[0].toFixed(1)} [${rank[1].toFixed(1)}, ${rank[2].toFixed(1)}]` : "–";
  return el("td", { class: rank ? "number" : "number quiet", title: why ? `No mean rank: ${why}` : null }, text);
}

function primaryCell(task, row, run) {
  const cell = row.cells[run];
  if (!cell || cell.value === null) return el("td", { class: "number quiet" }, cell ? "n/a" : unansweredText(task, run) ? "–" : "");
  const values = row.cells.filter(Boolean).map((one) => one.value).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const node = el("td", { class: "number heat", title: `${task.title}, ${RUNS[run].name}: ${scoreText(cell)}, n = ${count(cell.n)}` },
    el(cell.standing === "best" ? "b" : "span", null, percent(cell.value, 1)), task.leaked[run] ? el("abbr", { title: LEAKED }, "*") : null);
  node.style.setProperty("--weight", String(high > low ? (0.7 * (cell.value - low)) / (high - low) : 0));
  return node;
}

function forest(protocol) {
  const order = runsInOrder(protocol);
  return el("div", { class: "panels" }, TASKS.map((task) => [task, primaryRow(task, protocol)]).filter(([, row]) => row).map(([task, row]) =>
    el("figure", { class: "panel" }, el("figcaption", null, taskLink(task), " ", el("span", { class: "quiet" }, metricTitle(row.metric))),
      forestPlot(task, row, order), figureTools(`${task.name}-${row.metric}-${protocol}`))));
}

function forestPlot(task, row, order) {
  const x = (value) => 24 + (value / 100) * (PANEL - 36);
  const there = order.map((run) => [row.cells[run], run]).filter(([cell]) => cell && cell.value !== null);
  const height = LINE * Math.max(1, there.length) + 16;
  const label = there.map(([cell, run]) => `${RUNS[run].name}: ${scoreText(cell)}`).join("; ");
  return svg("svg", { class: "plot forest", viewBox: `0 0 ${PANEL} ${height}`, width: PANEL, height, role: "img", "aria-label": `${task.title}, ${metricTitle(row.metric)}. ${label || "not scored"}` },
    SHARES.map((tick) => [svg("line", { class: tick ? "grid" : "zero", x1: x(tick), x2: x(tick), y1: 0, y2: height - 15 }),
      svg("text", { class: "tick", x: x(tick), y: height - 3, "text-anchor": "middle" }, String(tick))]),
    there.map(([cell, run], line) => {
      const y = LINE * line + LINE / 2;
      const [low, high] = cell.interval ? cell.interval.map((end) => 100 * end) : [null, null];
      return svg("g", null, svg("title", null, `${RUNS[run].name}: ${scoreText(cell)}`), svg("g", { transform: `translate(8 ${y})` }, mark(run, 0, 0)),
        cell.ceiling === null ? null : svg("line", { class: "ceiling", x1: x(100 * cell.ceiling), x2: x(100 * cell.ceiling), y1: y - 8, y2: y + 8 }),
        whisker(run, x, y, low, 100 * cell.value, high));
    }));
}

const KINDS = {
  qa: "Question answering", vqa: "Visual question answering", report: "Report generation", rec: "Boxes for words", reg: "Words for boxes", cls: "Image classification",
};

function kindBars(protocol) {
  // A kind's tasks have one primary metric, so that their mean says something.
  const kinds = [...new Set(TASKS.map((task) => task.kind))].map((kind) => [kind, TASKS.filter((task) => task.kind === kind && primaryRow(task, protocol))]).filter(([, tasks]) => tasks.length);
  return kinds.length < 2 ? null : [el("h2", null, "By kind of task"), el("div", { class: "panels" }, kinds.map(([kind, tasks]) =>
    el("figure", { class: "panel" }, el("figcaption", null, KINDS[kind] || kind, " ", el("span", { class: "quiet" }, `${metricTitle(primaryRow(tasks[0], protocol).metric)}${tasks.length > 1 ? `, mean of ${tasks.length} tasks` : ""}`)),
      barPlot(kind, tasks, protocol), figureTools(`kind-${kind}-${protocol}`))))];
}

function barPlot(kind, tasks, protocol) {
  // Of runs that answered all of the kind's tasks.
  const means = runsInOrder(protocol).map((run) => [run, tasks.map((task) => primaryRow(task, protocol).cells[run]).map((cell) => (cell ? cell.value : null))])
    .filter(([, values]) => !values.includes(null)).map(([run, values]) => [run, values.reduce((sum, value) => sum + value, 0) / values.length]);
  const told = means.map(([run, mean]) => `${RUNS[run].name}: ${percent(mean, 1)}${tasks.some((task) => task.leaked[run]) ? "*" : ""}`);
  const height = LINE * Math.max(1, means.length);
  return svg("svg", { class: "plot", viewBox: `0 0 ${PANEL} ${height}`, width: PANEL, height, role: "img", "aria-label": `${KINDS[kind] || kind}. ${told.join("; ") || "not scored"}` },
    means.map(([run, mean], line) => svg("g", null, svg("title", null, told[line]), svg("g", { transform: `translate(8 ${LINE * line + LINE / 2})` }, mark(run, 0, 0)),
      svg("rect", { class: `bin mark run-${run % 6}`, x: 20, y: LINE * line + 4, width: Math.max(1, mean * (PANEL - 72)), height: LINE - 8 }),
      svg("text", { class: "tick", x: 26 + mean * (PANEL - 72), y: LINE * line + LINE / 2 + 3.5 }, told[line].slice(RUNS[run].name.length + 2)))));
}

function noticeList() {
  const loud = DOC.notices.filter((notice) => /^[A-Z][A-Z ]+:/.test(notice));
  const others = DOC.notices.filter((notice) => !loud.includes(notice));
  return [
    loud.map((notice) => el("p", { class: "notice loud", onclick: (event) => event.currentTarget.classList.remove("loud") }, notice)),
    others.length ? el("details", { class: "notice" }, el("summary", null, others.length === 1 ? others[0].slice(0, 100) + (others[0].length > 100 ? "…" : "") : `${others.length} more notices about these numbers`),
      el("ul", null, others.map((notice) => el("li", null, notice)))) : null,
  ];
}
