// Which samples are shown, in which order.

let lowered = null;
const found = new Map();

function wordsOf(query) {
  return query.toLowerCase().split(/\s+/).filter(Boolean);
}

function textsWith(word) {
  // Every text is looked at once per word, however many samples share it.
  lowered ??= TEXTS.map((text) => text.toLowerCase());
  if (!found.has(word)) {
    if (found.size > 20) found.clear();
    found.set(word, Uint8Array.from(lowered, (text) => (text.includes(word) ? 1 : 0)));
  }
  return found.get(word);
}

function textColumns(task) {
  const asked = [task.prompt, task.reference, task.choices];
  const said = answered(task).flatMap((run) => [task.answers[run].text, task.answers[run].raw, task.answers[run].error]);
  return [...asked, ...said].filter(Boolean);
}

function matcher(task, query) {
  const words = wordsOf(query);
  const columns = textColumns(task);
  const ids = words.length ? task.ids.map((id) => id.toLowerCase()) : [];
  const tests = words.map((word) => {
    const has = textsWith(word);
    const labels = (task.labels || []).map(({ values, of }) => [of, values.map((value) => value.toLowerCase().includes(word))]);
    return (row) => columns.some((column) => has[column[row]]) || ids[row].includes(word) || labels.some(([of, hits]) => hits[of[row]]);
  });
  return (row) => tests.every((test) => test(row));
}

function between(task, protocol, metric, choice) {
  const others = answered(task);
  const outcome = (run, row) => outcomeOf(scoreOf(task, run, row, protocol, metric), metric);
  if (choice === "answers") return (row) => new Set(others.map((run) => saidOf(task, run, row))).size > 1;
  if (choice === "scores") return (row) => spread(task, row, protocol, metric) > 0;
  const only = choice.startsWith("only-") ? Number(choice.slice(5)) : -1;
  if (!others.includes(only)) return null;
  return (row) => others.every((run) => (outcome(run, row) === "right") === (run === only));
}

function spread(task, row, protocol, metric) {
  const scores = answered(task).map((run) => scoreOf(task, run, row, protocol, metric));
  const there = scores.filter((score) => score !== null);
  if (!there.length) return 0;
  return there.length < scores.length ? 1 : Math.max(...there) - Math.min(...there);
}

function filtered(task, route, metric) {
  const { protocol, run } = route;
  const tests = [];
  if (STATES.includes(route.state)) tests.push((row) => stateOf(task, run, row) === route.state);
  if (Object.hasOwn(OUTCOMES, route.outcome)) {
    tests.push((row) => outcomeOf(scoreOf(task, run, row, protocol, metric), metric) === route.outcome);
  }
  for (const { key, values, of } of task.labels || []) {
    const place = values.indexOf(route.labels[key]);
    if (place >= 0) tests.push((row) => of[row] === place);
  }
  if (route.between) tests.push(between(task, protocol, metric, route.between));
  if (route.q.trim()) tests.push(matcher(task, route.q));
  const rows = [];
  const asked = tests.filter(Boolean);
  for (let row = 0; row < task.ids.length; row += 1) if (asked.every((test) => test(row))) rows.push(row);
  return sorted(task, rows, route, metric);
}

function sortOf(route) {
  return route.sort || (RUNS.length > 1 ? "differ" : "data");
}

function sorted(task, rows, route, metric) {
  const score = (row) => scoreOf(task, route.run, row, route.protocol, metric);
  const keys = {
    worst: (row) => score(row) ?? 2,
    best: (row) => -(score(row) ?? -1),
    differ: (row) => -spread(task, row, route.protocol, metric),
  };
  if (!Object.hasOwn(keys, sortOf(route))) return rows;
  const key = keys[sortOf(route)];
  const values = new Map(rows.map((row) => [row, key(row)]));
  return rows.sort((first, second) => values.get(first) - values.get(second) || first - second);
}

function meanScore(task, rows, run, protocol, metric) {
  const scores = rows.map((row) => scoreOf(task, run, row, protocol, metric)).filter((score) => score !== null);
  return scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : null;
}
