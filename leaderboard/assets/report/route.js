// What is looked at, held in the address behind `#`, so that a view can be passed on and comes back.

const PLAIN = ["q", "state", "outcome", "between", "run", "metric", "sort", "at", "protocol", "pair"];
const EVERYWHERE = ["protocol"];
const OF_COMPARE = ["protocol", "pair"];
const VIEWS = [
  ["summary", "Summary"],
  ["samples", "Samples"],
  ...(RUNS.length > 1 ? [["compare", "Compare"]] : []),
  ...(RUNS.some((run) => run.routing) ? [["routing", "Routing"]] : []),
  ["time", "Time"],
  ...(RUNS.some((run) => run.audited) ? [["audit", "Audit"]] : []),
  ["provenance", "Provenance"],
];

function readRoute() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [view, ...rest] = path.split("/").map(decoded);
  const given = new URLSearchParams(query || "");
  const task = TASK_BY_NAME.has(rest[0]) ? rest[0] : firstTask();
  const route = { view: VIEWS.some(([name]) => name === view) ? view : "summary", task, labels: {} };
  for (const name of PLAIN) route[name] = given.get(name) || "";
  for (const [name, value] of given) if (name.startsWith("label.")) route.labels[name.slice(6)] = value;
  route.protocol = DOC.protocols.includes(route.protocol) ? route.protocol : DOC.protocols[0];
  route.run = RUNS[Number(route.run)] ? Number(route.run) : 0;
  return route;
}

let first = null;

function firstTask() {
  // One with pictures, where the runs differ most; looked for once.
  if (first === null) {
    const differing = (task) => {
      const metric = metricOf(task, DOC.protocols[0], "");
      if (!metric || !task.ids.length) return 0;
      return task.ids.reduce((sum, _, row) => sum + spread(task, row, DOC.protocols[0], metric), 0) / task.ids.length;
    };
    const seen = TASKS.filter((task) => (task.images || []).some((images) => images.length));
    const [best] = (seen.length ? seen : TASKS).map((task) => [task.name, differing(task)]).sort((one, other) => other[1] - one[1]);
    first = best ? best[0] : "";
  }
  return first;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}

function routeText(route) {
  const query = new URLSearchParams();
  for (const name of PLAIN) {
    const isDefault = name === "protocol" ? route[name] === DOC.protocols[0] : !route[name];
    const counts = route.view === "samples" ? name !== "pair" : (route.view === "compare" ? OF_COMPARE : EVERYWHERE).includes(name);
    if (!isDefault && counts) query.set(name, String(route[name]));
  }
  if (route.view === "samples") for (const [key, value] of Object.entries(route.labels)) query.set(`label.${key}`, value);
  const path = route.view === "samples" ? `samples/${encodeURIComponent(route.task)}` : route.view;
  const text = query.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

function linkTo(changes) {
  const blank = { labels: {}, protocol: route.protocol };
  for (const name of PLAIN) blank[name] ??= "";
  return routeText({ ...blank, ...changes });
}

let route = readRoute();

let keeping = 0;

function keepRoute() {
  // No entry of the history for every letter that is typed, and no more calls than a browser allows.
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", routeText(route)), 150);
}
