// The answers that the page holds, and the one rule by which they are looked up: that of explorer_maps.py.
"use strict";

const facts = JSON.parse(document.getElementById("facts").textContent);
const maps = [];

function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

// Packed text to rows of `count` 16-bit numbers.
async function unpack(text, count) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const half = planes.length / 2;
  const values = new Uint16Array(half);
  for (let start = 0; start < half; start += count) {
    let value = 0;
    for (let i = start; i < start + count; i++) {
      const folded = planes[i] | (planes[half + i] << 8);
      value = (value + ((folded >>> 1) ^ -(folded & 1))) & 65535;
      values[i] = value;
    }
  }
  return Array.from({ length: half / count }, (_, row) => values.subarray(row * count, (row + 1) * count));
}

async function readMap(index) {
  const photo = facts.photos[index];
  const { rows, columns, width, height } = photo;
  const bits = bytesOf(photo.inside);
  const number = new Int32Array(rows * columns).fill(-1);
  const cell = [];
  for (let i = 0; i < number.length; i++) {
    if ((bits[i >> 3] >> (7 - (i & 7))) & 1) number[i] = cell.push(i) - 1;
  }
  const count = cell.length;
  const block = document.getElementById("answers-" + index);
  const values = await unpack(block.textContent, count);
  block.remove();
  const photos = facts.photos.length;
  return {
    rows, columns, width, height, number, count,
    cell: Int32Array.from(cell),
    x: Float64Array.from(cell, (i) => ((i % columns) + 0.5) * width / columns - 0.5),
    y: Float64Array.from(cell, (i) => (Math.floor(i / columns) + 0.5) * height / rows - 0.5),
    longest: Math.max(width, height),
    limit: Math.floor(facts.close * facts.steps / Math.max(rows, columns)),
    answers: Array.from({ length: photos }, (_, target) => values.slice(4 * target, 4 * target + 4)),
    place: values.slice(4 * photos, 4 * photos + 2),
    sure: values[4 * photos + 2],
  };
}

const fromSteps = (steps, longest) => (steps - facts.steps) * longest / facts.steps - 0.5;
const cycleFromSteps = (steps, longest) => steps ** 2 * (1.5 / 65025) * longest;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// The samples around a point, and what each weighs; null where none of them is on the object.
function around(map, x, y) {
  const u = clamp((x + 0.5) * map.columns / map.width - 0.5, 0, map.columns - 1);
  const v = clamp((y + 0.5) * map.rows / map.height - 0.5, 0, map.rows - 1);
  const i = Math.max(0, Math.min(Math.floor(u), map.columns - 2));
  const j = Math.max(0, Math.min(Math.floor(v), map.rows - 2));
  const p = u - i, q = v - j;
  const weights = [(1 - p) * (1 - q), p * (1 - q), (1 - p) * q, p * q];
  const corners = [];
  for (const row of [j, j + 1]) {
    for (const column of [i, i + 1]) {
      corners.push(row < map.rows && column < map.columns ? map.number[row * map.columns + column] : -1);
    }
  }
  let heaviest = -1;
  for (let k = 0; k < 4; k++) {
    if (corners[k] >= 0 && (heaviest < 0 || weights[k] > weights[heaviest])) heaviest = k;
  }
  if (heaviest < 0) return null;
  return { corners, weights, heaviest, whole: corners.every((corner) => corner >= 0) };
}

const spread = (row, [a, b, c, d]) =>
  Math.max(row[a], row[b], row[c], row[d]) - Math.min(row[a], row[b], row[c], row[d]);

function mixed(row, near, close) {
  if (!close) return row[near.corners[near.heaviest]];
  let sum = 0;
  for (let k = 0; k < 4; k++) sum += near.weights[k] * row[near.corners[k]];
  return sum;
}

// Where a pixel of a photo lies in every photo: {x, y, confidence, cycle}, null for the photo itself; null off the object.
function lookup(source, x, y) {
  const map = maps[source];
  const near = around(map, x, y);
  if (!near) return null;
  return map.answers.map((rows, target) => {
    if (target === source) return null;
    const close = near.whole && spread(rows[0], near.corners) <= map.limit && spread(rows[1], near.corners) <= map.limit;
    const longest = Math.max(facts.photos[target].width, facts.photos[target].height);
    return {
      x: fromSteps(mixed(rows[0], near, close), longest),
      y: fromSteps(mixed(rows[1], near, close), longest),
      confidence: mixed(rows[2], near, close) / 255,
      cycle: cycleFromSteps(mixed(rows[3], near, close), map.longest),
    };
  });
}

// The place of a pixel in the canonical picture: {x, y} in its cells, and how well the other photos explain it.
function placeOf(source, x, y) {
  const map = maps[source];
  const near = around(map, x, y);
  if (!near) return null;
  const [px, py] = map.place;
  const close = near.whole && spread(px, near.corners) <= map.limit && spread(py, near.corners) <= map.limit;
  return {
    x: fromSteps(mixed(px, near, close), facts.grid),
    y: fromSteps(mixed(py, near, close), facts.grid),
    confidence: mixed(map.sure, near, close) / 255,
  };
}

// The neighbour of a sample to one side, -1 where there is none.
function beside(map, sample, dx, dy) {
  const column = (map.cell[sample] % map.columns) + dx;
  const row = Math.floor(map.cell[sample] / map.columns) + dy;
  if (column < 0 || row < 0 || column >= map.columns || row >= map.rows) return -1;
  return map.number[row * map.columns + column];
}

// By how many steps an answer moves from one sample to the next, in (dx, dy); null where it jumps.
function slope(map, px, py, sample, dx, dy) {
  for (const sign of [1, -1]) {
    const other = beside(map, sample, sign * dx, sign * dy);
    if (other < 0) continue;
    const a = sign * (px[other] - px[sample]), b = sign * (py[other] - py[sample]);
    if (Math.abs(a) <= map.limit && Math.abs(b) <= map.limit) return [a, b];
  }
  return null;
}

// Where a place of the canonical picture, in its cells, lies in a photo; null where the photo does not show it.
function locate(target, x, y) {
  const map = maps[target];
  const [px, py] = map.place;
  const wantedX = (x + 0.5) * facts.steps / facts.grid + facts.steps, wantedY = (y + 0.5) * facts.steps / facts.grid + facts.steps;
  let best = -1, least = Infinity;
  for (let k = 0; k < map.count; k++) {
    const distance = (px[k] - wantedX) ** 2 + (py[k] - wantedY) ** 2;
    if (distance < least) [best, least] = [k, distance];
  }
  if (best < 0 || Math.sqrt(least) > facts.steps * 0.03) return null;
  let dx = 0, dy = 0;
  const right = slope(map, px, py, best, 1, 0), down = slope(map, px, py, best, 0, 1);
  if (right && down) {
    const area = right[0] * down[1] - right[1] * down[0];
    const offX = wantedX - px[best], offY = wantedY - py[best];
    if (Math.abs(area) > 1) {
      dx = clamp((offX * down[1] - offY * down[0]) / area, -0.6, 0.6);
      dy = clamp((offY * right[0] - offX * right[1]) / area, -0.6, 0.6);
    }
  }
  return {
    x: map.x[best] + dx * map.width / map.columns,
    y: map.y[best] + dy * map.height / map.rows,
    confidence: map.sure[best] / 255,
  };
}
