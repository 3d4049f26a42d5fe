
// What is followed, a point or a region, and how it is drawn and told in all photos: at most once a frame.
const PLANE = -1;
const MARK = "#ff4fa3", DARK = "rgb(0 0 0 / .75)", TRACK = "#7fe0ff";
const $ = (id) => document.getElementById(id);
const notice = (text) => { $("notice").textContent = text; };
const sideOf = (index) => index === PLANE ? [facts.grid, facts.grid] : [facts.photos[index].width, facts.photos[index].height];

const tiles = [...document.querySelectorAll(".tile")].map((figure) => {
  const box = figure.querySelector(".photo"), canvas = figure.querySelector("canvas");
  const index = figure.dataset.photo === "plane" ? PLANE : Number(figure.dataset.photo);
  return {
    index, figure, box, canvas, context: canvas.getContext("2d"), layer: figure.querySelector(".layer"),
    text: figure.querySelector(".answer"), width: 0, height: 0, visible: true, drawn: false, region: null, count: 0,
  };
});
const tileOf = (index) => tiles.find((tile) => tile.index === index);
const nameOf = (index) => index === PLANE ? "All photos in one" : `${index + 1} · ${facts.photos[index].name}`;

// ---- what is followed: a point or a region of one photo or of the plane ---------------------------------------------

let point = null;   // {source, x, y}, original pixels or cells of the plane
let kept = false;   // it stays where it is while the mouse moves
let region = null;  // {source, box, chosen: for each photo the samples in it, as {taken, order}}
let tracks = null;  // {byPhoto, byTrack} of the exported tracks
let tool = "point";
let waiting = 0, telling = 0;

function changed() {
  if (!waiting) waiting = requestAnimationFrame(draw);
  clearTimeout(telling);
  telling = setTimeout(tell, 70);  // text is laid out only where the point rests
}

function follow(source, x, y) {
  const [width, height] = sideOf(source);
  point = { source, x: clamp(x, -0.5, width - 0.5), y: clamp(y, -0.5, height - 0.5) };
  region = null;
  changed();
}

function clear() {
  point = region = null;
  kept = false;
  setLink();
  changed();
}

// For each photo where the point is, or null; and where it is in the plane.
function marksOf({ source, x, y }) {
  if (source === PLANE) return { photos: maps.map((_, target) => locate(target, x, y)), plane: null };
  return { photos: lookup(source, x, y), plane: placeOf(source, x, y) };
}

// Adds to a region what lies where `test` says, in pixels of its source.
function choose(area, test) {
  const photos = area.source === PLANE ? maps.keys() : [area.source];
  for (const index of photos) {
    const map = maps[index];
    const { taken, order } = area.chosen[index] ??= { taken: new Uint8Array(map.count), order: [] };
    for (let k = 0; k < map.count; k++) {
      const x = area.source === PLANE ? fromSteps(map.place[0][k], facts.grid) : map.x[k];
      const y = area.source === PLANE ? fromSteps(map.place[1][k], facts.grid) : map.y[k];
      if (!taken[k] && test(x, y)) { taken[k] = 1; order.push(k); }
    }
  }
}

function chooseBox(source, x0, y0, x1, y1) {
  point = null;
  region = { source, chosen: {}, box: [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)] };
  const [left, top, right, bottom] = region.box;
  choose(region, (x, y) => x >= left && x <= right && y >= top && y <= bottom);
  changed();
}

function paint(source, x0, y0, x1, y1) {
  point = null;
  region ??= { source, chosen: {}, box: null };
  const reach = Math.max(...sideOf(source)) * 0.03;
  const length = (x1 - x0) ** 2 + (y1 - y0) ** 2;
  choose(region, (x, y) => {
    const along = length ? clamp(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1) : 0;
    return (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2 <= reach ** 2;
  });
  changed();
}

function nearestTrack(source, x, y) {
  if (!tracks || source === PLANE) return null;
  let best = null, least = (Math.max(...sideOf(source)) * 0.025) ** 2;
  for (const row of tracks.byPhoto[source]) {
    const distance = (row.x - x) ** 2 + (row.y - y) ** 2;
    if (distance < least) [best, least] = [row, distance];
  }
  return best && tracks.byTrack.get(best.track);
}

// ---- drawing --------------------------------------------------------------------------------------------------------

function draw() {
  waiting = 0;
  const marks = point && marksOf(point);
  const track = point && nearestTrack(point.source, point.x, point.y);
  for (const tile of tiles) {
    if (!tile.visible || !tile.width) continue;
    const { context } = tile;
    if (region && tile.region === region) {  // a region only grows: what is drawn of it stays
      drawRegion(tile);
      continue;
    }
    if (tile.drawn) context.clearRect(0, 0, tile.width, tile.height);
    [tile.drawn, tile.region, tile.count] = [Boolean(point || region), region, 0];
    if (region) drawRegion(tile);
    if (!point) continue;
    if (track) for (const row of track) if (row.photo === tile.index) drawTrack(tile, row);
    if (tile.index === point.source) drawSource(tile, point.x, point.y);
    else if (marks.photos) drawMark(tile, tile.index === PLANE ? marks.plane : marks.photos[tile.index]);
  }
}

function inTile(tile, x, y) {
  const [width, height] = sideOf(tile.index);
  return [(x + 0.5) * tile.width / width, (y + 0.5) * tile.height / height];
}

function drawSource(tile, x, y) {
  const { context } = tile;
  const [left, top] = inTile(tile, x, y);
  for (const [colour, width] of [[DARK, 4], ["#fff", 1.75]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.arc(left, top, 7, 0, 7);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(left + 4 * dx, top + 4 * dy);
      context.lineTo(left + 12 * dx, top + 12 * dy);
    }
    context.stroke();
  }
}

function drawMark(tile, mark) {
  if (!mark) return;
  const { context } = tile;
  const [x, y] = inTile(tile, mark.x, mark.y);
  const strength = Math.min(mark.confidence / facts.sure, 1);
  const guess = mark.confidence < facts.guess;
  context.globalAlpha = 0.3 + 0.7 * strength;
  context.beginPath();
  context.arc(x, y, 4.5 + 2 * strength, 0, 7);
  context.fillStyle = guess ? "rgb(255 255 255 / .35)" : MARK;
  context.fill();
  context.lineWidth = 4;
  context.strokeStyle = DARK;
  context.stroke();
  context.lineWidth = 2;
  context.strokeStyle = guess ? MARK : "#fff";
  if (guess) context.setLineDash([3, 3]);
  context.stroke();
  context.setLineDash([]);
  drawNumber(tile, mark.confidence.toFixed(2), x, y);
  context.globalAlpha = 1;
}

function drawNumber({ context, width }, text, x, y) {
  const left = x + 48 > width ? x - 46 : x + 11, top = y < 22 ? y + 6 : y - 21;
  context.fillStyle = "rgb(16 16 14 / .8)";
  context.beginPath();
  context.roundRect(left, top, 36, 17, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(text, left + 18, top + 13);
}

function drawTrack(tile, row) {
  const { context } = tile;
  const [x, y] = inTile(tile, row.x, row.y);
  for (const [colour, width] of [[DARK, 3.5], [TRACK, 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(x - 4, y - 4, 8, 8);
  }
}

function drawRegion(tile) {
  const { source, box, chosen } = region;
  const own = source === PLANE ? tile.index : source;
  if (tile.index === source && box) drawBox(tile, box);
  if (own === PLANE || !chosen[own]) return;
  const map = maps[own], { order } = chosen[own];
  if (tile.count === order.length) return;
  const samples = order.slice(tile.count);
  if (tile.index === own) fillCells(tile, map, samples, null, null, source === PLANE ? map.sure : null);
  else fillCells(tile, map, samples, ...(tile.index === PLANE ? [...map.place, map.sure] : map.answers[tile.index]));
  tile.count = order.length;
}

function drawBox(tile, [x0, y0, x1, y1]) {
  const { context } = tile;
  const [left, top] = inTile(tile, x0, y0), [right, bottom] = inTile(tile, x1, y1);
  for (const [colour, width] of [[DARK, 3.5], ["#fff", 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(left, top, right - left, bottom - top);
  }
}

// Fills what each of the samples stands for, paler where it is less sure. Without answers it is drawn in its own photo.
function fillCells(tile, map, samples, px, py, sure) {
  const levels = [[new Path2D(), 0.18], [new Path2D(), 0.4], [new Path2D(), 0.62]];
  const [width, height] = sideOf(tile.index);
  const scale = Math.max(width, height) / facts.steps * tile.width / width;
  const plain = facts.steps / Math.max(map.rows, map.columns);
  const step = px ? null : [map.width / map.columns * tile.width / width, map.height / map.rows * tile.height / height];
  for (const k of samples) {
    let x, y, right, down;
    if (px) {
      [x, y] = [(px[k] - facts.steps) * scale, (py[k] - facts.steps) * scale];
      right = (slope(map, px, py, k, 1, 0) ?? [plain, 0]).map((value) => value * scale * 0.6);
      down = (slope(map, px, py, k, 0, 1) ?? [0, plain]).map((value) => value * scale * 0.6);
    } else {
      [x, y] = inTile(tile, map.x[k], map.y[k]);
      [right, down] = [[step[0] * 0.6, 0], [0, step[1] * 0.6]];
    }
    if (right[0] * down[1] < right[1] * down[0]) right = [-right[0], -right[1]];  // all the same way round: no holes
    const confidence = sure ? sure[k] / 255 : 1;
    const [path] = levels[confidence >= facts.sure ? 2 : confidence >= facts.guess ? 1 : 0];
    path.moveTo(x - right[0] - down[0], y - right[1] - down[1]);
    path.lineTo(x + right[0] - down[0], y + right[1] - down[1]);
    path.lineTo(x + right[0] + down[0], y + right[1] + down[1]);
    path.lineTo(x - right[0] + down[0], y - right[1] + down[1]);
    path.closePath();
  }
  tile.context.fillStyle = MARK;
  for (const [path, alpha] of levels) {
    if (tile.count) {  // where cells lie over those that were drawn before, they don't add up
      tile.context.globalCompositeOperation = "destination-out";
      tile.context.globalAlpha = 1;
      tile.context.fill(path);
      tile.context.globalCompositeOperation = "source-over";
    }
    tile.context.globalAlpha = alpha;
    tile.context.fill(path);
  }
  tile.context.globalAlpha = 1;
}

// ---- words ----------------------------------------------------------------------------------------------------------

const pixels = (value) => value < 9.95 ? value.toFixed(1) : Math.round(value).toString();

function tell() {
  const marks = point && marksOf(point);
  $("copy").disabled = !point || point.source === PLANE;
  for (const tile of tiles) tile.text.textContent = wordsOf(tile, marks);
  const track = point && nearestTrack(point.source, point.x, point.y);
  $("track").textContent = track ? `Track ${track[0].track}: in ${track.length} photos.` : "";
  $("spot").textContent = "";
  if (region) {
    $("where").textContent = `A region of ${nameOf(region.source)}`;
    $("found").textContent = "Esc clears it.";
  } else if (point) {
    $("where").textContent = point.source === PLANE ? "A place of the object" : nameOf(point.source);
    $("spot").textContent = point.source === PLANE ? "" : `x ${point.x.toFixed(1)}, y ${point.y.toFixed(1)}${kept ? " · kept, Esc lets go" : ""}`;
    $("found").textContent = summary(marks);
  } else {
    $("where").textContent = "Point at the object in any photo.";
    $("found").textContent = "";
  }
}

function summary({ photos }) {
  if (!photos) return "This is beside the object.";
  const found = photos.filter(Boolean).map((mark) => mark.confidence);
  const count = (low, high) => found.filter((value) => value >= low && value < high).length;
  const others = point.source === PLANE ? photos.length : photos.length - 1;
  return `Sure in ${count(facts.sure, 9)}, likely in ${count(facts.guess, facts.sure)}, a guess in ${count(-1, facts.guess)} of ${others} photos.`;
}

function wordsOf(tile, marks) {
  if (region) return regionWords(tile);
  if (!point) return "";
  if (tile.index === point.source) return "here";
  const mark = marks.photos && (tile.index === PLANE ? marks.plane : marks.photos[tile.index]);
  if (!mark) return tile.index === PLANE || !marks.photos ? "" : "not seen";
  if (mark.cycle === undefined) return mark.confidence.toFixed(2);
  return `${mark.confidence.toFixed(2)} · ↺ ${pixels(mark.cycle)} px`;
}

function regionWords(tile) {
  const { source, chosen } = region;
  if (tile.index === source || tile.index === PLANE) return tile.index === source ? "here" : "";
  const own = source === PLANE ? tile.index : source;
  const sure = source === PLANE ? maps[own].sure : maps[own].answers[tile.index][2];
  const order = chosen[own]?.order ?? [];
  const sum = order.reduce((total, k) => total + sure[k], 0);
  return order.length ? (sum / order.length / 255).toFixed(2) : "not seen";
}
