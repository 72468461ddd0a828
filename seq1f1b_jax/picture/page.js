// The page: draws what is in view and follows wheel, mouse and keys. Data comes from #data.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const LEFT = 64;
const RIGHT = data.timelines.some((timeline) => timeline.memory.length) ? 76 : 16;
const END = Math.max(...data.timelines.map((timeline) => timeline.end));
const FONT = "11px system-ui, sans-serif";

const plots = document.getElementById("plots");
const axis = document.getElementById("axis");
const cursor = document.getElementById("cursor");
const tooltip = document.getElementById("tooltip");
const panels = data.timelines.map(addPanel);
let view = clampView(0, END, END);
let colours = readColours();
let waiting = false;

function readColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "quiet", "rule", "idle", "held", "paper"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text; // never HTML: titles come from users
  return node;
}

function addPanel(timeline) {
  const section = element("section", "timeline");
  const heading = element("h2", "", timeline.title);
  heading.append(element("span", "notes", timeline.notes.join("  ·  ")));
  if (timeline.memory.length) heading.append(element("span", "peak", timeline.peakHeading));
  const canvas = element("canvas", "");
  const heights = rowHeights(timeline);
  const height = timeline.rows.length * heights.pitch;
  section.append(heading, canvas);
  plots.insertBefore(section, cursor);
  return { timeline, canvas, heights, height };
}

// Size a canvas to its box in device pixels and return a context that counts in CSS pixels.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) {
    [canvas.width, canvas.height] = [wide, high];
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = FONT;
  context.textBaseline = "middle";
  return context;
}

function plotWidth() {
  return Math.max(plots.clientWidth - LEFT - RIGHT, 50);
}

function toX(time) {
  return LEFT + ((time - view.start) / view.width) * plotWidth();
}

function toTime(x) {
  return view.start + ((x - LEFT) / plotWidth()) * view.width;
}

const textWidths = new Map();
function textWidth(context, text) {
  if (!textWidths.has(text)) textWidths.set(text, context.measureText(text).width);
  return textWidths.get(text);
}

let hatchPattern = null;
function hatch(context) {
  if (hatchPattern === null) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const pen = tile.getContext("2d");
    pen.strokeStyle = data.hatch;
    for (const shift of [-6, 0, 6]) {
      pen.moveTo(shift - 1, 7);
      pen.lineTo(shift + 7, -1);
    }
    pen.stroke();
    hatchPattern = context.createPattern(tile, "repeat");
  }
  return hatchPattern;
}

function drawPanel(panel) {
  const { timeline, heights } = panel;
  const context = prepare(panel.canvas, plots.clientWidth, panel.height);
  context.save();
  context.beginPath();
  context.rect(LEFT, 0, plotWidth(), panel.height);
  context.clip();
  timeline.rows.forEach((row, rank) => {
    const top = rank * heights.pitch;
    context.fillStyle = colours.idle;
    context.fillRect(toX(0), top, toX(timeline.end) - toX(0), heights.row);
  });
  drawGrid(context, panel.height);
  timeline.rows.forEach((row, rank) => {
    drawBoxes(context, panel, row, rank);
    if (timeline.memory.length) drawCurve(context, panel, rank);
  });
  context.restore();
  drawMargins(context, panel);
}

function drawGrid(context, height) {
  context.fillStyle = colours.rule;
  for (const tick of timeTicks(view, plotWidth() / 80).ticks) {
    context.fillRect(Math.round(toX(tick)), 0, 1, height);
  }
}

function drawBoxes(context, panel, row, rank) {
  const { timeline, heights } = panel;
  const [first, last] = spansInView(row, view);
  let drawnTo = -Infinity; // boxes narrower than a pixel: one for each pixel
  for (let i = first; i < last; i++) {
    const left = toX(row.start[i]);
    const right = toX(row.end[i]);
    if (right < drawnTo + 1) continue;
    drawnTo = right;
    const width = right - left;
    const top = rank * heights.pitch + boxTop(heights, row.group[i], timeline.stagesPerRank);
    const drawn = Math.max(width - (width > 4 ? 1 : 0), 1);
    context.fillStyle = colourOf(timeline, row, i);
    context.fillRect(left, top, drawn, heights.box);
    if (data.ops[row.op[i]].hatched && width > 3) {
      context.fillStyle = hatch(context);
      context.fillRect(left, top, drawn, heights.box);
    }
    const seen = Math.max(left, LEFT); // a label stands in the middle of what is in view
    const room = Math.min(left + drawn, LEFT + plotWidth()) - seen;
    drawLabel(context, row, i, rank, { left: seen, top, width: room, height: heights.box });
  }
}

function drawLabel(context, row, index, rank, box) {
  if (box.width < 12) return;
  const op = data.ops[row.op[index]];
  const labels = labelsOf(row, index, rank, op.letter);
  const label = fittingLabel(labels, box, (text) => textWidth(context, text));
  if (label === null) return;
  const width = textWidth(context, label.text);
  context.save();
  context.translate(box.left + box.width / 2, box.top + box.height / 2);
  if (label.upright) context.rotate(-Math.PI / 2);
  if (op.hatched) {
    context.fillStyle = "#ffffff";
    context.fillRect(-width / 2 - 1, -5, width + 2, 10);
  }
  context.fillStyle = op.ink;
  context.fillText(label.text, -width / 2, 0.5);
  context.restore();
}

function drawCurve(context, panel, rank) {
  const { timeline, heights } = panel;
  const curve = timeline.memory[rank];
  const floor = rank * heights.pitch + heights.row + heights.curve;
  const scale = (heights.curve - 2) / timeline.memoryTop;
  const first = Math.max(firstAbove(curve.time, view.start) - 1, 0);
  const last = firstAbove(curve.time, view.start + view.width);
  context.fillStyle = colours.held;
  context.fillRect(toX(0), floor - 1, toX(timeline.end) - toX(0), 1);
  context.beginPath();
  context.moveTo(toX(first < last ? curve.time[first] : 0), floor);
  for (let i = first; i < last; i++) {
    const until = i + 1 < curve.time.length ? curve.time[i + 1] : timeline.end;
    context.lineTo(toX(curve.time[i]), floor - curve.value[i] * scale);
    context.lineTo(toX(until), floor - curve.value[i] * scale);
    if (i === last - 1) context.lineTo(toX(until), floor);
  }
  context.fill();
}

function drawMargins(context, panel) {
  const { timeline, heights } = panel;
  timeline.rows.forEach((_, rank) => {
    const top = rank * heights.pitch;
    context.fillStyle = colours.ink;
    context.textAlign = "right";
    context.fillText(`rank ${rank}`, LEFT - 8, top + heights.row / 2);
    if (!timeline.memory.length) return;
    context.fillStyle = colours.quiet;
    context.textAlign = "left";
    const middle = top + heights.row + heights.curve / 2;
    context.fillText(timeline.peaks[rank], LEFT + plotWidth() + 8, middle);
  });
  context.textAlign = "left";
}

function drawAxis() {
  const context = prepare(axis, plots.clientWidth, 34);
  const { ticks, step } = timeTicks(view, plotWidth() / 80);
  context.fillStyle = colours.quiet;
  context.fillRect(LEFT, 0, plotWidth(), 1);
  context.textAlign = "center";
  for (const tick of ticks) {
    context.fillRect(Math.round(toX(tick)), 0, 1, 4);
    context.fillText(tickText(tick, step), toX(tick), 12);
  }
  context.fillText(`time, ${data.unitName}`, LEFT + plotWidth() / 2, 27);
}

function draw() {
  waiting = false;
  panels.forEach(drawPanel);
  drawAxis();
}

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

function show(next) {
  view = next;
  redraw();
}
