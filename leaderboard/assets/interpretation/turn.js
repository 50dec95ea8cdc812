// Maps in three dimensions turn where they are dragged, or by arrow keys; Home gives the first view back. Nothing moves by itself.
"use strict";

const UNIT = 110;
const FAR = 5;
const DRAG = 120;
const STEP = Math.PI / 36;
const BY_KEY = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

function seen([x, y, z], yaw, pitch) {
  // As `seen` of turning.py: across, down, and how near, 1 in the middle.
  const across = x * Math.cos(yaw) - y * Math.sin(yaw);
  const back = x * Math.sin(yaw) + y * Math.cos(yaw);
  const near = FAR / (FAR + back * Math.cos(pitch) - z * Math.sin(pitch));
  return [UNIT * across * near, -UNIT * (z * Math.cos(pitch) + back * Math.sin(pitch)) * near, near];
}

function turning(picture) {
  const places = (node) => node.dataset.at.split(",").map((place) => place.split(" ").map(Number));
  const [edges, points] = ["path", "use"].map((tag) => [...picture.querySelectorAll(`${tag}[data-at]`)].map((node) => [node, places(node)]));
  const first = picture.dataset.view.split(" ").map(Number);
  let view = first;

  function turn(yaw, pitch) {
    view = [view[0] + yaw, Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view[1] + pitch))];
    const text = (value) => value.toFixed(2);
    for (const [node, ends] of edges) {
      node.setAttribute("d", `M${ends.map((end) => seen(end, ...view).slice(0, 2).map(text).join(" ")).join("L")}`);
    }
    const drawn = points.map(([node, [place]]) => [node, ...seen(place, ...view)]).sort((one, other) => one[3] - other[3]);
    for (const [node, x, y, near] of drawn) {
      node.setAttribute("transform", `translate(${text(x)} ${text(y)}) scale(${text(near)})`);
    }
    picture.append(...drawn.map(([node]) => node));
  }

  let last = [0, 0];
  picture.addEventListener("pointerdown", (event) => {
    last = [event.clientX, event.clientY];
    picture.setPointerCapture(event.pointerId);
  });
  picture.addEventListener("pointermove", (event) => {
    if (!picture.hasPointerCapture(event.pointerId)) return;
    turn((event.clientX - last[0]) / DRAG, (event.clientY - last[1]) / DRAG);
    last = [event.clientX, event.clientY];
  });
  picture.addEventListener("keydown", (event) => {
    if (event.key === "Home") view = first;
    else if (!BY_KEY[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    turn(...(BY_KEY[event.key] || [0, 0]));
  });
  picture.tabIndex = 0;
}

document.querySelectorAll("svg[data-view]").forEach(turning);
document.querySelectorAll(".turns").forEach((hint) => { hint.hidden = false; });
