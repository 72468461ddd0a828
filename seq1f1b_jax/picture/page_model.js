// What the page computes, without touching the page: every function here is pure.
"use strict";

// Share of a row by which the last layer group of a rank lies lower than the first.
const STEP = 0.28;

/** Part of the time axis in view, moved and sized so that it stays within [0, end]. */
function clampView(start, width, end) {
  const size = Math.min(Math.max(width, end * 1e-5), end);
  const left = Math.min(Math.max(start, 0), end - size);
  return { start: left, width: size };
}

/** Zoom by a factor (below 1: closer) while the time `at` keeps its place. */
function zoomView(view, at, factor, end) {
  const width = Math.min(Math.max(view.width * factor, end * 1e-5), end);
  return clampView(at - (at - view.start) * (width / view.width), width, end);
}

/** Round times in view, at most `most` of them: multiples of 1, 2 or 5 times a power of ten. */
function timeTicks(view, most) {
  const rough = view.width / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * (1 - 1e-9));
  const ticks = [];
  const last = Math.floor((view.start + view.width) / step + 1e-9);
  for (let i = Math.ceil(view.start / step - 1e-9); i <= last; i++) ticks.push(i * step);
  return { ticks, step };
}

/** Write a time with as many decimals as the step between ticks has. */
function tickText(value, step) {
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return decimals > 12 ? value.toExponential(4) : value.toFixed(decimals);
}

/** Write a number with at most six significant digits. */
function numberText(value) {
  return String(Number(value.toPrecision(6)));
}

/** Index of the first entry of an ascending list that is greater than `value`. */
function firstAbove(list, value) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Indices [first, last) of a row's spans that a view shows. */
function spansInView(row, view) {
  const first = Math.max(firstAbove(row.end, view.start), 0);
  const last = firstAbove(row.start, view.start + view.width);
  return [first, last];
}

/** Index of the span that runs at a time, or -1 where the rank waits. */
function spanAt(row, time) {
  const index = firstAbove(row.start, time) - 1;
  return index >= 0 && time < row.end[index] ? index : -1;
}

/** When the wait around a time began and ends. */
function waitAround(row, time, end) {
  const next = firstAbove(row.start, time);
  return {
    start: next > 0 ? row.end[next - 1] : 0,
    end: next < row.start.length ? row.start[next] : end,
  };
}

/** What a rank holds at a time: the value of the last step before it. */
function heldAt(curve, time) {
  const index = firstAbove(curve.time, time) - 1;
  return index >= 0 ? curve.value[index] : 0;
}

/** The labels of a span, the longest first. */
function labelsOf(row, index, rank, letter) {
  const unit = `${row.microbatch[index]}.${row.chunk[index]}`;
  const stage = row.stage[index] === rank ? "" : `@${row.stage[index]}`;
  return [`${letter}${unit}${stage}`, unit];
}

/** The first label that fits into a box, lying, or else the last one upright, or null. */
function fittingLabel(labels, box, measure) {
  const roomy = box.width >= 56; // only then the long one, so that neighbours look alike
  const lying = labels.slice(roomy ? 0 : -1).find((label) => measure(label) <= box.width - 4);
  if (lying && box.height >= 11) return { text: lying, upright: false };
  const shortest = labels[labels.length - 1];
  const upright = box.width >= 12 && measure(shortest) <= box.height - 3;
  return upright ? { text: shortest, upright } : null;
}

/** Heights of a row in pixels: less for each where there are many. */
function rowHeights(timeline) {
  const held = timeline.memory.length > 0;
  const pitch = Math.min(Math.max(420 / timeline.rows.length, 18), held ? 48 : 36);
  const space = Math.min(6, 0.15 * pitch);
  const curve = held ? 0.34 * (pitch - space) : 0;
  const row = pitch - space - curve;
  const box = timeline.stagesPerRank > 1 ? row * (1 - STEP) : row;
  return { pitch, space, curve, row, box };
}

/** Upper edge of a box within its row: the later the layers, the lower. */
function boxTop(heights, group, stagesPerRank) {
  return stagesPerRank > 1 ? (group / (stagesPerRank - 1)) * (heights.row - heights.box) : 0;
}

/** Colour of a box. */
function colourOf(timeline, row, index) {
  const families = timeline.colours[row.op[index]];
  return families[row.microbatch[index] % families.length][row.chunk[index]];
}

/** Lines of the tooltip over a rank at a time. */
function tooltipLines(data, timeline, rank, time) {
  const row = timeline.rows[rank];
  const index = spanAt(row, time);
  const unit = data.unit ? ` ${data.unit}` : "";
  const lines = [];
  let from;
  let to;
  if (index < 0) {
    ({ start: from, end: to } = waitAround(row, time, timeline.end));
    lines.push("waiting", `rank ${rank}`);
  } else {
    [from, to] = [row.start[index], row.end[index]];
    const op = data.ops[row.op[index]];
    lines.push(`${labelsOf(row, index, rank, op.letter)[0]} ${op.meaning}`);
    lines.push(`rank ${rank}, stage ${row.stage[index]}`);
    lines.push(`microbatch ${row.microbatch[index]}, chunk ${row.chunk[index]}`);
  }
  lines.push(`from ${numberText(from)} to ${numberText(to)}${unit}`);
  lines.push(`lasts ${numberText(to - from)}${unit}`);
  if (timeline.memory.length) {
    const held = heldAt(timeline.memory[rank], time) * timeline.memoryFactor;
    lines.push(`holds ${numberText(held)} ${timeline.memoryName}`);
  }
  return lines;
}

if (typeof module !== "undefined") {
  module.exports = {
    STEP, boxTop, clampView, colourOf, firstAbove, fittingLabel, heldAt, labelsOf, numberText,
    rowHeights, spanAt, spansInView, tickText, timeTicks, tooltipLines, waitAround, zoomView,
  };
}
