// What is looked at, held in the address behind `#`, so that a view can be passed on and comes back.

const FILTERS = ["q", "size", "since", "open", "shot", "leaks", "from", "kind"];
const KEPT = [...FILTERS, "protocol", "sort", "way", "task", "score", "across", "forest"];

function readRoute() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const given = new URLSearchParams(query || "");
  const found = { board: BOARDS[Number(path)] ? Number(path) : 0 };
  for (const name of KEPT) found[name] = given.get(name) || "";
  if (!DOC.protocols.includes(found.protocol)) found.protocol = DOC.protocols[0];
  return found;
}

function routeText(wanted) {
  const query = new URLSearchParams();
  for (const name of KEPT) {
    if (wanted[name] && !(name === "protocol" && wanted[name] === DOC.protocols[0])) query.set(name, wanted[name]);
  }
  const text = query.toString();
  return `#/${wanted.board}${text ? `?${text}` : ""}`;
}

let route = readRoute();

let keeping = 0;

function change(changes) {
  // No entry of the history for every letter that is typed, and no more calls than a browser allows.
  Object.assign(route, changes);
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", routeText(route)), 150);
  drawBoard();
}

function samplesLink(entry, row) {
  // To the samples behind a number: in the run's report, else to what its page says of the task.
  if (entry.reported) return null;
  if (!entry.report) return `./runs/${entry.run}.html#${encodeURIComponent(`${route.protocol}-${row.task}`)}`;
  const query = new URLSearchParams({ ...(route.protocol === DOC.protocols[0] ? {} : { protocol: route.protocol }), metric: row.metric, sort: "worst" });
  return `./runs/${entry.run}/report.html#/samples/${encodeURIComponent(row.task)}?${query}`;
}
