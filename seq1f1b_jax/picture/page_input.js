// Wheel, mouse and keys of the page.
"use strict";

const reset = () => show(clampView(0, END, END));
const zoom = (factor, at = view.start + view.width / 2) => show(zoomView(view, at, factor, END));
const pan = (time) => show(clampView(view.start + time, view.width, END));

function pointerX(event) {
  return event.clientX - plots.getBoundingClientRect().left;
}

function overTime(event) {
  const x = pointerX(event);
  return x >= LEFT && x <= LEFT + plotWidth();
}

function onWheel(event) {
  if (!overTime(event)) return; // over the names of the ranks the page scrolls
  event.preventDefault();
  const pixels = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
  const [x, y] = [event.deltaX * pixels, event.deltaY * pixels];
  const sideways = event.shiftKey ? x || y : x;
  if (event.shiftKey || Math.abs(x) > Math.abs(y)) pan((sideways / plotWidth()) * view.width);
  else zoom(Math.exp(y * 0.002), toTime(pointerX(event)));
}

let dragged = null;

function onDown(event) {
  if (event.button !== 0 || !overTime(event)) return;
  dragged = { x: event.clientX, start: view.start };
  plots.setPointerCapture(event.pointerId);
  plots.classList.add("dragged");
}

function onUp() {
  dragged = null;
  plots.classList.remove("dragged");
}

function onMove(event) {
  if (dragged) {
    const time = ((event.clientX - dragged.x) / plotWidth()) * view.width;
    show(clampView(dragged.start - time, view.width, END));
  }
  const lines = dragged ? null : linesUnder(event);
  tooltip.hidden = lines === null;
  cursor.hidden = !overTime(event);
  cursor.style.left = `${pointerX(event)}px`;
  if (lines !== null) placeTooltip(event, lines);
}

function linesUnder(event) {
  if (!overTime(event)) return null;
  const time = toTime(pointerX(event));
  for (const { timeline, canvas, heights } of panels) {
    const y = event.clientY - canvas.getBoundingClientRect().top;
    const rank = Math.floor(y / heights.pitch);
    const inside = rank >= 0 && rank < timeline.rows.length && time <= timeline.end;
    if (inside && y - rank * heights.pitch < heights.pitch - heights.space) {
      return tooltipLines(data, timeline, rank, time);
    }
  }
  return null;
}

function placeTooltip(event, lines) {
  tooltip.replaceChildren(...lines.map((line, i) => element(i ? "div" : "strong", "", line)));
  const { width, height } = tooltip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - width - 10 : event.clientX + 14;
  const top = event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14;
  tooltip.style.left = `${Math.max(left, 4)}px`;
  tooltip.style.top = `${Math.max(top, 4)}px`;
}

function onLeave() {
  tooltip.hidden = cursor.hidden = true;
}

const KEYS = {
  0: reset, Home: reset, Escape: reset,
  "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), "-": () => zoom(1.5),
  ArrowLeft: () => pan(-0.1 * view.width), ArrowRight: () => pan(0.1 * view.width),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  event.preventDefault();
  KEYS[event.key]();
}

plots.addEventListener("wheel", onWheel, { passive: false });
plots.addEventListener("pointerdown", onDown);
plots.addEventListener("pointermove", onMove);
plots.addEventListener("pointerup", onUp);
plots.addEventListener("pointercancel", onUp);
plots.addEventListener("pointerleave", onLeave);
plots.addEventListener("dblclick", reset);
window.addEventListener("keydown", onKey);
window.addEventListener("resize", redraw);
document.getElementById("closer").addEventListener("click", () => zoom(1 / 1.5));
document.getElementById("wider").addEventListener("click", () => zoom(1.5));
document.getElementById("all").addEventListener("click", reset);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours = readColours();
  redraw();
});
draw();
