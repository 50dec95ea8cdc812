// Two runs on the samples that they share.

const BY_PRIMARY = "Samples with a full score by the primary metric; for Mean IoU, of at least 50";
let allMetrics = false;

function drawCompare() {
  return [
    el("h2", null, "Compared on the same samples"),
    el("p", { class: "quiet" }, "The difference is the first run's score minus the other's, in points, with its 95 % interval. A verdict is given on the primary metric (●) of each task, with p adjusted over all tasks by Holm's method; other metrics describe. “Too few clusters”: with so many images, patients, volumes or documents the test finds nothing, whatever the answers. “Detectable” is the smallest true difference that would lead to a verdict four times in five. A task's name leads to the samples where the runs differ."),
    el("label", { class: "check" }, el("input", { type: "checkbox", id: "all-metrics", checked: allMetrics, onchange: (event) => { allMetrics = event.target.checked; draw(); byId("all-metrics").focus(); } }), " all metrics"),
    RUNS.length > MANY ? winsTable() : null,
    drawPair(chosenPair()),
  ];
}

function chosenPair() {
  return DOC.pairs[Number(route.pair)] || DOC.pairs[0];
}

function winsTable() {
  const compared = new Set(DOC.pairs.flatMap(({ first, second }) => [first, second]));
  const order = runsInOrder(route.protocol).filter((run) => compared.has(run));
  const left = RUNS.length > order.length ? ` Of ${RUNS.length} runs the best ${order.length} are compared; medbench compare tells of others.` : "";
  return [
    el("p", { class: "quiet" }, "Tasks on which the run of the row is better / worse than that of the column, and undecided. A cell shows the pair below.", left),
    table(null, ["", ...order.map((run) => head([legendMark(run), ` ${RUNS[run].name}`]))], order.map((run) => [
      el("th", { scope: "row", class: "pinned" }, legendMark(run), ` ${RUNS[run].name}`),
      ...order.map((other) => (run === other ? el("td", { class: "number quiet" }, "") : winsCell(run, other))),
    ]), "scores wins", `wins-${route.protocol}`),
  ];
}

function winsCell(run, other) {
  const { better, worse, open } = winsOf(run, other, route.protocol);
  const place = DOC.pairs.indexOf(pairOf(run, other));
  const kind = better > worse ? "ahead" : worse > better ? "behind-of" : "";
  return el("td", { class: `number ${kind}` }, el("a", { href: linkTo({ view: "compare", pair: place }), "aria-current": DOC.pairs[place] === chosenPair() ? "true" : null },
    `${better} / ${worse}`, el("small", null, ` ${open}`), unseen(` better / worse, undecided: ${RUNS[run].name} against ${RUNS[other].name}`)));
}

function drawPair(pair) {
  const names = [RUNS[pair.first].name, RUNS[pair.second].name];
  const rows = pair.rows[route.protocol].filter((row) => allMetrics || row.verdict !== null);
  const { better, worse, open } = tallyOfPair(pair, route.protocol);
  const reach = Math.max(1, ...rows.flatMap((row) => [Math.abs(row.low), Math.abs(row.high)].map((end) => 100 * end)));
  const extent = Math.min(100, Math.ceil(reach / 10) * 10);
  return el("section", null,
    el("h3", null, legendMark(pair.first), `${names[0]} against `, legendMark(pair.second), `${names[1]}: better on ${better}, worse on ${worse}, undecided on ${open}`),
    table(null, ["Task", "Metric", head(names[0]), head(names[1]), head("Difference"), plotHead(axis(along(-extent, extent), [-extent, 0, extent])), "Verdict", head("Right: both / 1st only / 2nd only / neither", { title: BY_PRIMARY })],
      rows.map((row) => differenceRow(pair, row, extent, names)), "scores compared", `compare-${pair.first}-${pair.second}-${route.protocol}`));
}

function differenceRow(pair, row, extent, names) {
  const task = TASK_BY_NAME.get(row.task);
  const primary = row.verdict !== null;
  const tally = primary ? tallyOf(task, pair, row.metric) : null;
  return [
    el("th", { scope: "row" }, el("a", { href: linkTo({ view: "samples", task: task.name, sort: "differ", between: "scores", metric: row.metric }), title: "Samples where they differ" }, task.title)),
    el("td", { class: "metric" }, metricTitle(row.metric), primary ? el("span", { class: "star" }, " ●") : null),
    numberCell(percent(row.first)),
    numberCell(percent(row.second)),
    numberCell(`${signed(row.value)} [${signed(row.low, 1)}, ${signed(row.high, 1)}]`, el("small", null, `n = ${count(row.samples)}, ${plural(row.clusters, "cluster", "clusters")}${row.detectable === null ? ", nothing detectable" : `, detectable ${percent(row.detectable, 1)}`}`)),
    el("td", { class: "plotted" }, differencePlot(row, extent, `${task.title}, ${metricTitle(row.metric)}`, row.verdict === "better" ? pair.first : row.verdict === "worse" ? pair.second : -1)),
    primary ? el("td", null, el("strong", null, verdictText(row, names)), el("small", null, ` p=${pText(row.p)}, ${pText(row.adjusted)} adjusted`)) : el("td", null, el("small", null, `p=${pText(row.p)}`)),
    numberCell(tally ? ["both", "first", "second", "neither"].map((who) => count(tally[who])).join(" / ") : ""),
  ];
}

function signed(value, digits = 2) {
  return `${value > 0 ? "+" : ""}${(100 * value).toFixed(digits)}`;
}

function pText(p) {
  return p < 0.001 ? "<0.001" : p.toFixed(3);
}

function verdictText(row, names) {
  if (row.verdict === "better" || row.verdict === "worse") return `${row.verdict === "better" ? names[0] : names[1]} is better`;
  return row.verdict === "too few clusters" ? `${row.verdict} (${count(row.clusters)})` : row.verdict;
}

function tallyOf(task, pair, metric) {
  const counts = { both: 0, first: 0, second: 0, neither: 0 };
  for (let row = 0; row < task.ids.length; row += 1) {
    const [one, two] = [pair.first, pair.second].map((run) => scoreOf(task, run, row, route.protocol, metric));
    if (one === null || two === null) continue;
    const [isOne, isTwo] = [one, two].map((score) => outcomeOf(score, metric) === "right");
    counts[isOne && isTwo ? "both" : isOne ? "first" : isTwo ? "second" : "neither"] += 1;
  }
  return counts;
}
