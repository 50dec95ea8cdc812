// What stands beside the scores: routing, time, audit, provenance.

// Headings go down in steps of one: of several runs each has one of its own.
const under = RUNS.length > 1 ? "h4" : "h3";

function perRun(drawOne) {
  return RUNS.map((run, place) => el("section", null, RUNS.length > 1 ? el("h3", null, legendMark(place), run.name) : null, drawOne(run)));
}

function facts(rows, kind) {
  return table(null, [], rows.map(([name, text]) => [el("th", { scope: "row" }, name), el("td", { class: "value" }, text)]), kind || "facts");
}

function drawRouting() {
  return [
    el("h2", null, "Routing weights of Uni-Med's connector"),
    el("p", { class: "quiet" }, "How much each expert weighs in the mixture, by kind of task; the mean over what the run answered."),
    perRun((run) => (run.routing ? routingTable(run.routing) : el("p", { class: "quiet" }, "Not recorded by this run."))),
  ];
}

function routingTable(routing) {
  const kinds = Object.keys(routing);
  const experts = Math.max(...kinds.map((kind) => routing[kind].length));
  return table(null, ["Kind", ...Array.from({ length: experts }, (_, expert) => head(`expert ${expert + 1}`))], kinds.map((kind) => [
    el("th", { scope: "row" }, kind),
    ...Array.from({ length: experts }, (_, expert) => weightCell(routing[kind][expert])),
  ]), "heat");
}

function weightCell(weight) {
  if (weight === undefined) return "";
  const cell = el("td", { class: "number heat" }, weight.toFixed(3));
  cell.style.setProperty("--weight", String(Math.max(0, Math.min(1, weight))));
  return cell;
}

function drawTime() {
  return [el("h2", null, "Where the time went"), perRun((run) => (run.timing ? timing(run.timing) : el("p", { class: "quiet" }, "Not recorded: this run has no env.json.")))];
}

function timing(time) {
  const total = Object.values(time.seconds).reduce((sum, seconds) => sum + seconds, 0);
  const phases = Object.entries(time.seconds).sort((first, second) => second[1] - first[1]);
  const most = phases.length ? phases[0][1] : 0;
  return [
    phases.length ? table("Phases", ["Phase", head("Seconds"), head("%"), plotHead()], [
      ...phases.map(([phase, seconds]) => [phase, numberCell(seconds.toFixed(1)), numberCell(percent(seconds / total, 0)), el("td", { class: "plotted" }, amountBar(seconds, most))]),
      ...Object.entries(time.background_seconds).map(([phase, seconds]) => [`${phase} (beside, in other threads)`, numberCell(seconds.toFixed(1)), "", el("td", { class: "plotted" }, amountBar(seconds, most))]),
    ], "scores") : null,
    Object.keys(time.tasks).length ? table("The engine by task", ["Task", head("Output tokens"), head("Seconds"), head("Tokens per second")], Object.entries(time.tasks).map(([task, rate]) =>
      [task, numberCell(count(rate.output_tokens)), numberCell(Number(rate.seconds).toFixed(1)), numberCell(count(rate.output_tokens_per_second))]), "scores") : null,
    Object.keys(time.efficiency).length ? [el(under, null, "Efficiency of the engine"), facts(Object.entries(time.efficiency).map(efficiencyLine))] : null,
    Object.keys(time.counts).length ? [el(under, null, "Counts"), facts(Object.entries(time.counts).map(([name, value]) => [name, count(value)]))] : null,
    time.engine.length ? [el(under, null, "Engine"), facts(time.engine)] : null,
  ];
}

const EFFICIENCY = {
  useful_row_share: "rows of decode steps whose token is part of an answer",
  prefill_padding: "padding among the prompt tokens that were run",
  shared_prompt_share: "prompt tokens whose keys came from another row",
  output_tokens_per_second: "tokens of answers per second of prefill and decode",
};

function efficiencyLine([name, value]) {
  const label = Object.hasOwn(EFFICIENCY, name) ? EFFICIENCY[name] : name;
  return [label, name === "output_tokens_per_second" ? count(value) : `${percent(value, 1)} %`];
}

function drawAudit() {
  return [
    el("h2", null, "Audit: did the answers repeat test references?"),
    perRun((run) => {
      if (!run.leak) return el("p", { class: "quiet" }, "No audit of this run.");
      const untested = run.audit.filter((finding) => finding.verdict === "not_testable");
      return [
        el("p", { class: `verdict ${run.leak.verdict}` }, run.leak.headline),
        run.audit.length ? null : el("p", { class: "quiet" }, "The audit has no findings that this report can read."),
        run.audit.filter((finding) => !untested.includes(finding)).map(drawFinding),
        run.leak.next.length ? el("details", { class: "behind", open: RUNS.length === 1 }, el("summary", null, "What to do next"), el("ul", { class: "missing" }, run.leak.next.map((line) => el("li", null, line)))) : null,
        untested.length ? el("details", { class: "behind" }, el("summary", null, `${plural(untested.length, "task", "tasks")} that could not be tested`), untested.map(drawFinding)) : null,
      ];
    }),
    el("details", { class: "behind" }, el("summary", null, "What the words mean"), facts(Object.entries(DOC.glossary), "facts glossary")),
  ];
}

function drawFinding(finding) {
  return el("section", { class: "finding" },
    el(under, null, TASK_BY_NAME.has(finding.task) ? taskLink(TASK_BY_NAME.get(finding.task)) : finding.task || "Whole run", finding.verdict ? ": " : "", finding.verdict.replaceAll("_", " ")),
    finding.withheld ? el("p", { class: "quiet" }, "Details are left out: the data need a signed agreement.") : null,
    finding.text ? el("p", { class: "said", dir: "auto" }, finding.text) : null,
    finding.rows.length ? el("details", { class: "missed" }, el("summary", null, "Numbers"), facts(finding.rows)) : null);
}

function drawProvenance() {
  return [
    el("h2", null, "Where these numbers come from"),
    perRun((run) => run.provenance.map(({ title, rows }) => [el(under, null, title), facts(rows)])),
    el("h3", null, "The exact definition behind each number"),
    table(null, ["Task", "Metric", "Protocol", "Signature"], TASKS.flatMap((task) => DOC.protocols.flatMap((protocol) => task.scores[protocol].map((row) => [
      task.title, metricTitle(row.metric), protocol, el("td", { class: "value" }, [...new Set(row.cells.filter(Boolean).map((cell) => cell.signature))].join("\n")),
    ]))), "facts"),
  ];
}
