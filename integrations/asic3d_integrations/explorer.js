
// What the mouse, the keys, the tools and the link ask for.

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
    Escape: clear, "?": () => $("help").showModal(), c: copyLink, v: () => $("scene")?.click(),
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
