// One sample: its images with boxes, what was asked, what is right, what every run said and scored.

function pictureOf(number) {
  const [uri, width, height] = PICTURES.shown[number] || [];
  return uri === undefined ? null : { uri: uriOf(uri), width, height };
}

function whyNoPicture(number) {
  if (PICTURES.broken.includes(number)) return "could not be read";
  return PICTURES.asked ? "not embedded: this file's budget for images is used up" : "not embedded: images were not asked for";
}

function figures(task, row) {
  const numbers = (task.images && task.images[row]) || [];
  if (!numbers.length && !boxesOf(task, row).length) return null;
  const shown = numbers.length ? numbers : [null];
  return el("div", { class: "figures" }, shown.map((number, place) => figure(task, row, number, place === 0)));
}

function boxesOf(task, row) {
  const right = boxOf(task.rightBox, row);
  const said = answered(task).map((run) => [run, boxOf(task.answers[run].box, row)]).filter(([, box]) => box);
  return [...(right ? [["reference", right, "right-box", -1]] : []), ...said.map(([run, box]) => [RUNS[run].name, box, `said-box run-${run % 6}`, run])];
}

function figure(task, row, number, withBoxes) {
  const picture = number === null ? null : pictureOf(number);
  const boxes = withBoxes ? boxesOf(task, row) : [];
  const [width, height] = (task.size && task.size[row]) || (picture ? [picture.width, picture.height] : [100, 60]);
  const name = number === null ? "" : PICTURES.names[number];
  if (!picture && !boxes.length) return el("figure", null, el("div", { class: "absent" }, whyNoPicture(number)), el("figcaption", null, name));
  const thick = Math.max(width, height) / 180;
  const frame = svg("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Image ${name}${boxes.length ? `, boxes: ${boxes.map(([whose, box]) => `${whose} ${boxText(box)}`).join("; ")}` : ""}` },
    picture ? svg("image", { href: picture.uri, width, height, preserveAspectRatio: "none" }) : svg("rect", { class: "absent", width, height }),
    boxes.map(([whose, [left, top, right, bottom], kind]) => [
      svg("rect", { class: `${kind} halo`, x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), "stroke-width": 2.2 * thick }),
      svg("rect", { class: kind, x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), "stroke-width": thick }, svg("title", null, `${whose} ${boxText([left, top, right, bottom])}`)),
    ]));
  for (const [, [left, top], , run] of boxes) {
    if (run >= 0) frame.append(svg("g", { class: "on-picture", transform: `translate(${left} ${top}) scale(${thick * 1.2})` }, mark(run, 0, 0)));
  }
  frame.style.aspectRatio = `${width} / ${height}`;
  return el("figure", null, el("button", { type: "button", class: "zoom", title: "Enlarge", "aria-label": `Enlarge image ${name}`, onclick: () => enlarge(frame, name) }, frame),
    el("figcaption", null, name, name ? ` (${width} × ${height})` : null,
      number !== null && !picture ? el("em", null, ` ${whyNoPicture(number)}`) : null,
      boxes.length ? el("ul", { class: "legend" }, boxes.map(([whose, box, kind, run]) => el("li", null, boxKey(kind), run >= 0 ? legendMark(run) : null, `${whose} ${boxText(box)}`))) : null));
}

function enlarge(frame, name) {
  const dialog = byId("help");
  dialog.replaceChildren(el("h2", { id: "help-title" }, name || "Image"), el("div", { class: "large" }, frame.cloneNode(true)),
    el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"));
  dialog.classList.add("wide-dialog");
  dialog.addEventListener("close", () => dialog.classList.remove("wide-dialog"), { once: true });
  dialog.showModal();
}

function boxKey(kind) {
  return svg("svg", { class: "key", viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" },
    svg("rect", { class: kind, x: 2, y: 3, width: 12, height: 10, "stroke-width": 2 }));
}

function block(title, text, kind) {
  return text ? el("section", { class: kind || "block" }, el("h4", null, title), el("p", { class: "said", dir: "auto" }, text)) : null;
}

function outcomeChip(score, metric) {
  const outcome = outcomeOf(score, metric);
  return el("span", { class: `chip ${outcome}` }, `${MARKS[outcome]} `, score === null ? OUTCOMES.none : percent(score, 1));
}

function drawSample(task, row, place, total, metric) {
  const labels = (task.labels || []).filter(({ of }) => of[row] >= 0);
  return [
    el("header", { class: "sample-head" },
      el("h3", { id: "sample-title", tabindex: -1 }, task.ids[row]),
      el("span", { class: "quiet" }, `${task.title}, ${count(place + 1)} of ${count(total)}`)),
    labels.length ? el("ul", { class: "labels", "aria-label": "Labels" }, labels.map(({ key, title, values, of }) => el("li", null,
      el("a", { class: "label", href: routeText({ ...route, labels: { ...route.labels, [key]: values[of[row]] }, at: task.ids[row] }), title: "Show only these" },
        el("span", { class: "quiet" }, `${title} `), values[of[row]])))) : null,
    el("div", { class: "sample-body" },
      figures(task, row),
      el("div", { class: "texts" },
        task.withheld ? el("p", { class: "notice" }, "Texts and images of this task are left out: its data need a signed agreement.") : null,
        block("Instruction", textOf(task.prompt, row)),
        block("Choices", textOf(task.choices, row)),
        block("Reference", textOf(task.reference, row), "block reference"),
        el("div", { class: "answers-of" }, answered(task).map((run) => drawAnswer(task, run, row, metric))))),
  ];
}

const ENDS = { eos: "the model", length: "the limit of tokens", stop: "a word that ends answers" };

function drawAnswer(task, run, row, metric) {
  const answers = task.answers[run];
  const state = stateOf(task, run, row);
  if (!state) return el("section", { class: "answer" }, el("h4", null, legendMark(run), RUNS[run].name), el("p", { class: "quiet" }, "This run did not answer the sample."));
  const tokens = answers.tokens ? answers.tokens[row] : 0;
  const stop = textOf(answers.stop, row);
  const text = textOf(answers.text, row);
  const error = textOf(answers.error, row);
  return el("section", { class: "answer" },
    el("h4", null, legendMark(run), RUNS[run].name, " ", el("span", { class: `chip state ${state}` }, state), " ",
      outcomeChip(scoreOf(task, run, row, route.protocol, metric), metric)),
    task.withheld ? null : error ? el("p", { class: "said error", dir: "auto" }, error) : besideReference(task, row, text) || el("p", { class: text ? "said" : "said quiet", dir: "auto" }, text || "no text"),
    block("Raw answer", textOf(answers.raw, row), "raw"),
    tokens || stop ? el("p", { class: "quiet" }, [tokens ? plural(tokens, "token", "tokens") : "", stop ? `ended by ${Object.hasOwn(ENDS, stop) ? ENDS[stop] : stop}` : ""].filter(Boolean).join(", ")) : null,
    RUNS.length > MANY ? el("details", { class: "missed" }, el("summary", null, "Scores"), scoreTable(task, run, row)) : scoreTable(task, run, row));
}

function besideReference(task, row, text) {
  return ["report", "reg", "vqa", "qa"].includes(task.kind) ? compared(textOf(task.reference, row), text) : null;
}

function scoreTable(task, run, row) {
  const metrics = [...new Set(DOC.protocols.flatMap((protocol) => task.sampleMetrics[protocol]))];
  const shown = metrics.filter((metric) => DOC.protocols.some((protocol) => scoreOf(task, run, row, protocol, metric) !== null));
  if (!shown.length) return null;
  return table(null, ["Score", ...DOC.protocols.map((protocol) => el("th", { scope: "col", class: protocol === route.protocol ? "number current" : "number" }, protocol))],
    shown.map((metric) => [el("th", { scope: "row" }, metricTitle(metric)), ...DOC.protocols.map((protocol) => {
      const score = scoreOf(task, run, row, protocol, metric);
      return el("td", { class: protocol === route.protocol ? "number current" : "number" }, score === null ? "–" : percent(score, 1));
    })]), "small");
}
