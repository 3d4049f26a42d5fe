
// The page itself: what the mouse, the keys and the link ask for becomes marks in all photos, one drawing a frame.
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

// ---- mouse, touch and keys ------------------------------------------------------------------------------------------

function placeIn(tile, event) {
  const bounds = tile.box.getBoundingClientRect();
  const [width, height] = sideOf(tile.index);
  return [
    clamp((event.clientX - bounds.left) / bounds.width, 0, 1) * width - 0.5,
    clamp((event.clientY - bounds.top) / bounds.height, 0, 1) * height - 0.5,
  ];
}

function listen(tile) {
  const { box, index } = tile;
  let start = null, last = null;
  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const [x, y] = placeIn(tile, event);
    if (tool === "point") return keepAt(tile, x, y);
    event.preventDefault();
    box.focus({ preventScroll: true });
    box.setPointerCapture(event.pointerId);
    [start, last, region, kept] = [[x, y], [x, y], null, true];
    if (tool === "paint") paint(index, x, y, x, y);
  });
  box.addEventListener("pointermove", (event) => {
    const [x, y] = placeIn(tile, event);
    if (start && tool === "box") chooseBox(index, ...start, x, y);
    else if (start) { paint(index, ...last, x, y); last = [x, y]; }
    else if (!kept || (event.pointerType !== "mouse" && event.buttons)) follow(index, x, y);
  });
  for (const name of ["pointerup", "pointercancel"]) box.addEventListener(name, () => { start = null; });
  box.addEventListener("focus", () => { if (box.matches(":focus-visible")) comeTo(index); });
  box.addEventListener("keydown", (event) => press(event, index));
}

// A click keeps the point; one on the kept point lets it go.
function keepAt(tile, x, y) {
  const [width] = sideOf(tile.index);
  const near = 8 * width / tile.width;
  if (kept && point && point.source === tile.index && Math.hypot(point.x - x, point.y - y) < near) kept = false;
  else { kept = true; follow(tile.index, x, y); }
  setLink();
  changed();
}

// The keyboard comes to a photo: the point goes along, or starts on the object.
function comeTo(index) {
  if (region || (point && point.source === index)) return;
  const marks = point && marksOf(point);
  const mark = marks && marks.photos && (index === PLANE ? marks.plane : marks.photos[index]);
  const start = mark ?? middleOf(index);
  kept = true;
  follow(index, start.x, start.y);
}

function middleOf(index) {
  if (index === PLANE) return { x: facts.grid / 2, y: facts.grid / 2 };
  const map = maps[index];
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / map.count;
  const x = mean(map.x), y = mean(map.y);
  let best = 0;
  for (let k = 1; k < map.count; k++) {
    if (Math.hypot(map.x[k] - x, map.y[k] - y) < Math.hypot(map.x[best] - x, map.y[best] - y)) best = k;
  }
  return { x: map.x[best], y: map.y[best] };
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function press(event, index) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    kept = !kept;
    setLink();
    return changed();
  }
  const arrow = ARROWS[event.key];
  if (!arrow) return;
  event.preventDefault();
  const step = Math.max(...sideOf(index)) / 128;
  if (event.shiftKey) return stretch(index, arrow[0] * 2 * step, arrow[1] * 2 * step);
  const start = point && point.source === index ? point : middleOf(index);
  kept = true;
  follow(index, start.x + arrow[0] * step, start.y + arrow[1] * step);
}

function stretch(index, dx, dy) {
  const start = point && point.source === index ? point : middleOf(index);
  const box = region && region.source === index && region.box ? region.box : [start.x, start.y, start.x, start.y];
  chooseBox(index, box[0], box[1], box[2] + dx, box[3] + dy);
}

// ---- layers, sizes, links -------------------------------------------------------------------------------------------

const LAYERS = ["photo", "colours", "parts", "mask", "doubt"];
const LEGENDS = {
  photo: "",
  colours: "The same colour, and the same crossing of lines, is the same place of the object. Where the paint fades, it is a guess.",
  parts: "What belongs together, found without labels. The same colour is the same part.",
  mask: "What was taken for the object.",
  doubt: "Yellow: the other photos explain it well. Dark blue: it is a guess.",
};

function showLayer(name) {
  document.documentElement.dataset.layer = name;
  for (const tile of tiles) {
    if (tile.index === PLANE) continue;
    tile.layer.hidden = name === "photo";
    if (name !== "photo") tile.layer.src = facts.photos[tile.index].layers[name];
  }
  $("legend").textContent = LEGENDS[name];
}

function pick(group, value) {
  const button = document.querySelector(`input[name="${group}"][value="${value}"]`);
  button.checked = true;
  button.dispatchEvent(new Event("change", { bubbles: true }));
}

const GAP = 12, CAPTION = 22;  // pixels, as in the style

// The photos in rows that fill the width, each row about as high as wanted: [[width, height] of each photo].
function rowsOf(wanted, room) {
  const ratios = facts.photos.map(({ width, height }) => width / height);
  const sizes = [];
  for (let start = 0, end; start < ratios.length; start = end) {
    let sum = 0;
    const heightOf = (count) => (room - GAP * (count - 1)) / sum;
    for (end = start; end < ratios.length && (end === start || heightOf(end - start) > wanted); end++) sum += ratios[end];
    let height = heightOf(end - start);
    if (height > 1.25 * wanted) height = Math.min(1.25 * wanted, sizes.length ? sizes[start - 1][1] : wanted);  // the last row
    for (let i = start; i < end; i++) sizes.push([Math.floor(ratios[i] * height * 10) / 10, height]);
  }
  return sizes;
}

function layOut() {
  const sizes = rowsOf(Number($("size").value), $("photos").clientWidth);
  for (const tile of tiles) if (tile.index !== PLANE) tile.figure.style.width = `${sizes[tile.index][0]}px`;
}

function resize(height) {
  $("size").value = height;
  layOut();
}

// The largest height of the rows at which all photos are seen without scrolling, within reason.
function fittingHeight() {
  const width = $("photos").clientWidth;
  const room = innerHeight - $("photos").getBoundingClientRect().top - scrollY;
  const least = width < 500 ? 130 : 165;
  for (let height = 640; height > least; height -= 10) {
    let sum = 0, across = Infinity;
    for (const [wide, high] of rowsOf(height, width)) {
      if (across + wide > width + 1) { across = 0; sum += high + CAPTION + GAP; }
      across += wide + GAP;
    }
    if (sum <= room) return height;
  }
  return least;
}

function linkTo({ source, x, y }) {
  const words = new URLSearchParams({ photo: facts.photos[source].name, x: x.toFixed(1), y: y.toFixed(1) });
  return `#${words}`;
}

function setLink() {
  const link = kept && point && point.source !== PLANE ? linkTo(point) : "#";
  try { history.replaceState(null, "", link); } catch { /* where a page may not, the button still copies */ }
}

async function copyLink() {
  if (!point || point.source === PLANE) return;
  const link = location.href.split("#")[0] + linkTo(point);
  kept = true;
  setLink();
  try {
    await navigator.clipboard.writeText(link);
    notice("The link to this point is copied.");
  } catch {
    notice("The link is in the address bar: copy it from there.");
  }
  setTimeout(() => notice(""), 4000);
}

function openLink() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (!words.has("photo")) return;
  const source = facts.photos.findIndex((photo) => photo.name === words.get("photo"));
  const [x, y] = ["x", "y"].map((axis) => words.has(axis) ? Number(words.get(axis)) : NaN);
  if (source < 0) return notice(`The link is to a photo that is not here: ${words.get("photo")}`);
  if (!Number.isFinite(x) || !Number.isFinite(y)) return notice("The link names no point: x and y are missing.");
  kept = true;
  follow(source, x, y);
  tileOf(source).figure.scrollIntoView({ block: "nearest" });
}

function shortcut(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const layer = LAYERS[Number(event.key) - 1];
  const done = {
    Escape: clear, "?": () => $("help").showModal(), c: copyLink,
    p: () => pick("tool", "point"), b: () => pick("tool", "box"), d: () => pick("tool", "paint"),
    "+": () => resize(Number($("size").value) + 30), "-": () => resize(Number($("size").value) - 30),
  }[event.key];
  if (layer) pick("layer", layer);
  else if (done) done();
}

// ---- start ----------------------------------------------------------------------------------------------------------

async function readTracks() {
  const rows = await unpack(facts.tracks, facts.trackPoints);
  tracks = { byPhoto: facts.photos.map(() => []), byTrack: new Map() };
  for (let i = 0; i < facts.trackPoints; i++) {
    const photo = rows[2][i], longest = Math.max(...sideOf(photo));
    const row = { track: rows[0][i] + 65536 * rows[1][i], photo, x: fromSteps(rows[3][i], longest), y: fromSteps(rows[4][i], longest) };
    tracks.byPhoto[photo].push(row);
    if (!tracks.byTrack.has(row.track)) tracks.byTrack.set(row.track, []);
    tracks.byTrack.get(row.track).push(row);
  }
}

function watchTiles() {
  new ResizeObserver(layOut).observe($("photos"));
  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const tile = tiles.find(({ box }) => box === target), ratio = devicePixelRatio || 1;
      [tile.width, tile.height] = [contentRect.width, contentRect.height];
      [tile.canvas.width, tile.canvas.height] = [Math.round(tile.width * ratio), Math.round(tile.height * ratio)];
      tile.context.setTransform(ratio, 0, 0, ratio, 0, 0);
      tile.region = null;  // a canvas of another size is empty
    }
    changed();
  });
  const views = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) tiles.find(({ box }) => box === target).visible = isIntersecting;
    changed();
  }, { rootMargin: "100px" });
  for (const { box } of tiles) { sizes.observe(box); views.observe(box); }
}

async function start() {
  resize(fittingHeight());
  $("layers").addEventListener("change", (event) => showLayer(event.target.value));
  $("tools").addEventListener("change", (event) => { tool = document.documentElement.dataset.tool = event.target.value; });
  $("size").addEventListener("input", () => resize(Number($("size").value)));
  $("copy").addEventListener("click", copyLink);
  $("ask").addEventListener("click", () => $("help").showModal());
  if (typeof DecompressionStream === "undefined") {
    $("where").textContent = "This browser is too old for this page; one of 2023 or later shows it.";
    return;
  }
  for (let index = 0; index < facts.photos.length; index++) maps.push(await readMap(index));
  if (facts.tracks) await readTracks();
  tiles.forEach(listen);
  watchTiles();
  document.addEventListener("keydown", shortcut);
  addEventListener("hashchange", openLink);
  openLink();
  tell();
  document.documentElement.dataset.ready = "";
}

window.asic3d = { lookup: (source, x, y) => lookup(source, x, y), locate, placeOf, ready: start() };
