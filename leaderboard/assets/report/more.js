// What lies behind a task's number: which classes are mistaken, which labels are hard, how the scores are spread.

const BINS = 10;

function behindTheNumber(task) {
  const metric = metricOf(task, route.protocol, route.metric);
  const parts = [
    ["By label", () => labelTables(task, metric)], ["Spread of scores", () => spreadPlots(task, metric)], ["Confusion matrix", () => confusion(task)],
  ].filter(([, make]) => make());
  return parts.map(([title, make]) => el("details", { class: "behind" }, el("summary", null, title), make()));
}

function labelTables(task, metric) {
  const labels = (task.labels || []).filter(({ values }) => values.length > 1 && values.length <= 40);
  const runs = answered(task);
  if (!labels.length || !metric) return null;
  return labels.map(({ key, title, values, of }) => table(`${metricTitle(metric)} by ${title}, sample by sample`,
    [title, head("samples"), ...runs.map((run) => head([legendMark(run), RUNS.length > 4 ? unseen(RUNS[run].name) : ` ${RUNS[run].name}`], { title: RUNS[run].name }))],
    values.map((value, place) => {
      const rows = task.ids.map((_, row) => row).filter((row) => of[row] === place);
      return [el("th", { scope: "row" }, value), numberCell(count(rows.length)), ...runs.map((run) => meanCell(meanScore(task, rows, run, route.protocol, metric)))];
    }), "scores", `${task.name}-by-${key}`));
}

function meanCell(mean) {
  const cell = el("td", { class: "number heat" }, percent(mean, 1));
  cell.style.setProperty("--weight", String(0.7 * (mean ?? 0)));
  return cell;
}

function spreadPlots(task, metric) {
  const of = answered(task).map((run) => [run, task.ids.map((_, row) => scoreOf(task, run, row, route.protocol, metric)).filter((score) => score !== null)]);
  if (!of.some(([, scores]) => scores.some((score) => score > 0 && score < 1))) return null;
  return el("div", { class: "panels" }, of.map(([run, scores]) => {
    const bins = new Array(BINS).fill(0);
    for (const score of scores) bins[Math.min(BINS - 1, Math.max(0, Math.floor(score * BINS)))] += 1;
    return el("figure", { class: "panel" }, el("figcaption", null, legendMark(run), ` ${RUNS[run].name}`), histogram(run, bins, `${RUNS[run].name}, ${metricTitle(metric)}`), figureTools(`${task.name}-spread-${run}`));
  }));
}

function histogram(run, bins, label) {
  const most = Math.max(1, ...bins);
  const wide = (PANEL - 20) / BINS;
  return svg("svg", { class: "plot", viewBox: `0 0 ${PANEL} 96`, width: PANEL, height: 96, role: "img", "aria-label": `${label}: ${bins.map((number, bin) => `${bin * 10} to ${(bin + 1) * 10}: ${count(number)}`).join("; ")}` },
    bins.map((number, bin) => svg("rect", { class: `bin mark run-${run % 6}`, x: 10 + bin * wide, y: 78 - (72 * number) / most, width: wide - 2, height: (72 * number) / most }, svg("title", null, `${bin * 10} to ${(bin + 1) * 10}: ${count(number)} samples`))),
    [0, 50, 100].map((tick) => svg("text", { class: "tick", x: 10 + (tick / 100) * (PANEL - 20), y: 92, "text-anchor": "middle" }, String(tick))));
}

function confusion(task) {
  if (task.kind !== "cls" || !task.reference || !task.reference.length) return null;
  const run = task.answers[route.run] ? route.run : answered(task)[0];
  const classes = [...new Set(task.ids.map((_, row) => textOf(task.reference, row)))].filter(Boolean).sort();
  if (classes.length < MANY || classes.length > 40) return null;
  const place = new Map(classes.map((name, at) => [name.toLowerCase(), at]));
  const counts = classes.map(() => new Array(classes.length + 1).fill(0));
  task.ids.forEach((_, row) => {
    const right = place.get(textOf(task.reference, row).toLowerCase());
    const said = place.get(textOf(task.answers[run].text, row).toLowerCase().trim().replace(/\.$/, ""));
    if (right !== undefined) counts[right][said ?? classes.length] += 1;
  });
  return table(`${RUNS[run].name}: rows are the right classes, columns what it said; choose another run at “Answers of”`, ["", ...classes.map((name) => head(name)), head("other")],
    counts.map((line, right) => [el("th", { scope: "row" }, classes[right]), ...line.map((number, said) => {
      const cell = el("td", { class: said === right ? "number heat right" : "number heat" }, count(number));
      cell.style.setProperty("--weight", String(0.8 * (number / Math.max(1, line.reduce((sum, one) => sum + one, 0)))));
      return cell;
    })]), "scores confusion", `${task.name}-confusion-${run}`);
}

// Words of an answer beside those of the reference.

const MOST_WORDS = 600;

function wordsAndGaps(text) {
  return text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) || [];
}

function shared(one, other) {
  // Which words of each stand in the longest common sequence of both.
  const wide = other.length + 1;
  const longest = new Uint16Array((one.length + 1) * wide);
  for (let at = one.length - 1; at >= 0; at -= 1) {
    for (let to = other.length - 1; to >= 0; to -= 1) {
      longest[at * wide + to] = one[at] === other[to] ? longest[(at + 1) * wide + to + 1] + 1 : Math.max(longest[(at + 1) * wide + to], longest[at * wide + to + 1]);
    }
  }
  const common = [new Set(), new Set()];
  for (let at = 0, to = 0; at < one.length && to < other.length;) {
    if (one[at] === other[to]) { common[0].add(at); common[1].add(to); at += 1; to += 1; } else if (longest[(at + 1) * wide + to] >= longest[at * wide + to + 1]) at += 1;
    else to += 1;
  }
  return common;
}

function marked(text, common, tag, kind) {
  let word = -1;
  return wordsAndGaps(text).map((part) => {
    if (!/[\p{L}\p{N}]/u.test(part)) return part;
    word += 1;
    return common.has(word) ? part : el(tag, { class: kind }, part);
  });
}

function compared(reference, answer) {
  const words = [answer, reference].map((text) => wordsAndGaps(text).filter((part) => /[\p{L}\p{N}]/u.test(part)).map((part) => part.toLowerCase()));
  if (words.some((some) => some.length < MANY || some.length > MOST_WORDS)) return null;
  const [ofAnswer, ofReference] = shared(...words);
  const missing = words[1].length - ofReference.size;
  return [
    el("p", { class: "said", dir: "auto", title: "Underlined: words that the reference does not have there" }, marked(answer, ofAnswer, "ins", "extra")),
    missing ? el("details", { class: "missed" }, el("summary", null, `${plural(missing, "word", "words")} of the reference missing`), el("p", { class: "said", dir: "auto" }, marked(reference, ofReference, "del", "absent-word"))) : null,
  ];
}
