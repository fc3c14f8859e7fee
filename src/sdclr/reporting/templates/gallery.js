// The list of images: pictures, order, filters. Text from the collection is never inserted as markup.
const $ = (id) => document.getElementById(id);
const UNFILTERED = { text: "", kind: null, label: null, since: null, low: null, high: null, area: null, like: null };
const state = { sort: 0, up: false, ...UNFILTERED, active: null };
const selected = new Uint8Array(rows.count);
const tiles = new Map(); // tiles on the page, by their index in `shown`
const spare = []; // tiles to reuse
const GAP = 10;
const CAPTION = 18;
let shown = new Uint32Array(0);
let selectedCount = 0;
let anchor = 0;
let side = 112;
let across = 1;

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// A picture is a part of a sheet, scaled to fit a square. An example fills the square and is cropped.
function paint(box, row, edge, asExample = false) {
  const picture = box.firstChild ?? box.appendChild(make("div"));
  const [width, height] = [rows.sizes[2 * row], rows.sizes[2 * row + 1]];
  const style = picture.style;
  const drawn = placeOf(row, asExample);
  if (!width) {
    picture.className = "picture none";
    picture.textContent = drawn >= 0 ? "unreadable" : "no picture";
    style.cssText = "";
    return;
  }
  const sheet = Math.floor(drawn / meta.across ** 2);
  watchSheet(sheet);
  if (missingSheets.has(sheet)) {
    picture.className = "picture none";
    picture.textContent = "picture is missing";
    style.cssText = "";
    return;
  }
  const place = drawn % meta.across ** 2;
  const fitting = edge / Math.max(width, height);
  const scale = asExample ? Math.min(edge / Math.min(width, height), 2 * fitting) : fitting;
  const cell = meta.cells[sheet] * scale;
  picture.textContent = "";
  picture.className = scale >= 1.5 && meta.cells[sheet] <= 64 ? "picture tiny" : "picture";
  style.width = `${width * scale}px`;
  style.height = `${height * scale}px`;
  style.backgroundImage = `url("${meta.sheets[sheet]}")`;
  style.backgroundSize = `${cell * meta.across}px auto`;
  style.backgroundPosition = `${-cell * (place % meta.across)}px ${-cell * Math.floor(place / meta.across)}px`;
}

// A background that fails to load gives no event, so each sheet is also loaded as an image.
const watchedSheets = new Set();
const missingSheets = new Set();
function watchSheet(sheet) {
  if (watchedSheets.has(sheet)) return;
  watchedSheets.add(sheet);
  const image = new Image();
  image.onerror = () => {
    missingSheets.add(sheet);
    complain("Some thumbnails are missing. Keep the folder that ends in _files next to this page, and reload the page if it was written again.");
    for (const thumb of document.querySelectorAll(".thumb")) if (thumb.firstChild) paint(thumb, Number(thumb.dataset.row), THUMB, true);
    draw(true);
  };
  image.src = meta.sheets[sheet];
}

function complain(text) {
  $("problem").hidden = false;
  $("problem").textContent = text;
  say(text);
}

function newTile() {
  const tile = make("div", "tile");
  tile.setAttribute("role", "option");
  const caption = make("div", "caption");
  caption.append(make("b"), make("span"));
  tile.append(make("div", "box"), make("span", "mark"), make("span", "badge new", "new"), caption);
  return tile;
}

function fill(tile, place) {
  const row = shown[place];
  const [box, , fresh, caption] = tile.children;
  fresh.hidden = !isNew(row);
  tile.id = `tile-${place}`;
  tile.style.transform = `translate(${GAP + (place % across) * (side + GAP)}px, ${GAP + Math.floor(place / across) * (side + GAP + CAPTION)}px)`;
  tile.style.width = box.style.width = box.style.height = `${side}px`;
  paint(box, row, side);
  tile.title = visible(rows.ids[row]);
  tile.setAttribute("aria-label", `${visible(rows.ids[row])}, rank ${rows.rank[row]}${isNew(row) ? ", new" : ""}`);
  tile.setAttribute("aria-setsize", shown.length);
  tile.setAttribute("aria-posinset", place + 1);
  caption.firstChild.textContent = `#${rows.rank[row].toLocaleString("en")}`;
  mark(tile, row);
}

// Text at the lower right of a picture: the label, the group of near-duplicates, or the score.
function noteOf(row) {
  const label = marks.label(row);
  if (label) return visible(label);
  if (state.kind === COPIES && copies.has(row)) return `group ${copies.get(row).number + 1}${copies.get(row).kept ? ", keep" : ""}`;
  if (state.like) return side < 80 ? "" : likeText(row);
  return side >= 80 ? inDigits(rows.scores[state.sort][row]) : "";
}

function mark(tile, row) {
  tile.setAttribute("aria-selected", selected[row] ? "true" : "false");
  tile.classList.toggle("active", row === state.active);
  tile.classList.toggle("keep", marks.of(row) === KEEP);
  tile.classList.toggle("drop", marks.of(row) === DROP);
  tile.lastChild.lastChild.textContent = noteOf(row);
  tile.lastChild.classList.toggle("labeled", Boolean(marks.label(row)));
}

// Positions in the window.
const gridTop = () => $("grid").getBoundingClientRect().top;
const lineHeight = () => side + GAP + CAPTION;
const topOf = (place) => gridTop() + GAP + Math.floor(place / across) * lineHeight();
const isNarrow = matchMedia("(max-width: 800px)");
function freePart() { // the part of the window that nothing covers
  const sheetTop = isNarrow.matches && !$("detail").hidden ? $("detail").getBoundingClientRect().top : innerHeight;
  return { top: $("bar").offsetHeight, bottom: sheetTop };
}

// Draw only the visible tiles and a few around them.
function draw(again = false) {
  const high = lineHeight();
  const top = -gridTop();
  const first = Math.max(0, Math.floor(top / high) - 2) * across;
  const last = Math.min(shown.length, Math.max(1, Math.ceil((top + innerHeight) / high) + 2) * across);
  for (const [place, tile] of tiles) {
    if (place < first || place >= last) {
      tiles.delete(place);
      tile.remove();
      spare.push(tile);
    }
  }
  for (let place = first; place < last; place += 1) {
    let tile = tiles.get(place);
    if (tile && !again) continue;
    if (!tile) {
      tile = spare.pop() ?? newTile();
      tiles.set(place, tile);
      $("sheet").append(tile);
    }
    fill(tile, place);
  }
}

function layout() {
  const grid = $("grid");
  const wanted = Number($("zoom").value);
  across = Math.max(1, Math.floor((grid.clientWidth - GAP) / (wanted + GAP)));
  side = Math.floor((grid.clientWidth - GAP) / across) - GAP;
  $("sheet").classList.toggle("empty", shown.length === 0);
  $("sheet").style.height = `${GAP + Math.ceil(shown.length / across) * (side + GAP + CAPTION)}px`;
  draw(true);
}

// Lay out the list again, and keep the image at `place` at its position in the window if it is visible.
function layoutAround(place, act = () => {}) {
  const before = topOf(place);
  const keeps = before > -side && before < innerHeight && gridTop() <= freePart().top + GAP;
  act();
  layout();
  if (keeps) scrollBy(0, topOf(place) - before);
  draw();
}

function remark() {
  for (const [place, tile] of tiles) mark(tile, shown[place]);
  const chosen = selectedCount > 0;
  $("count").textContent = shown.length === rows.count ? inWords(rows.count) : `${shown.length.toLocaleString("en")} of ${inWords(rows.count)}`;
  $("what").textContent = chosen ? `${selectedCount.toLocaleString("en")} selected` : "All shown:";
  for (const id of ["keep", "drop", "give-label"]) $(id).disabled = !chosen && state.active === null;
  $("unselect").hidden = !chosen;
  $("all-shown").disabled = shown.length === 0;
  for (const id of ["copy", "csv", "json"]) $(id).disabled = !chosen && shown.length === 0;
}

// Order and filters.
function update() {
  shown = shownRows(state);
  anchor = Math.max(0, shown.indexOf(state.active));
  const score = meta.scores[state.sort];
  $("sort").value = String(state.sort);
  $("direction").textContent = state.up ? "↑" : "↓";
  $("direction").title = state.up ? "Lowest first" : "Highest first";
  $("direction").setAttribute("aria-label", `${$("direction").title}; change`);
  $("about").textContent = score.about;
  $("reset").hidden = !(state.text || [state.kind, state.label, state.since, state.low, state.high, state.area, state.like].some((value) => value !== null));
  $("shown-title").textContent = titleOfShown();
  $("kind").value = state.kind === null ? "" : String(state.kind);
  $("label").value = state.label === null ? "" : String(state.label);
  $("since").value = state.since === null ? "" : String(state.since);
  if ($("search").value !== state.text) $("search").value = state.text;
  drawRange();
  drawLike();
  layout();
  drawMapSoon();
  if (gridTop() < $("bar").offsetHeight) toList();
  remark();
  point();
  remember();
}

function titleOfShown() {
  const kind = state.kind === null ? (state.like ? "Most similar first" : "All images") : lists.get(state.kind)?.name ?? `Kind ${state.kind}`;
  return state.area ? `${kind}, in the area` : kind;
}

const BINS = 48;
const valueAt = (thousandth) => {
  const values = risingValues(state.sort);
  return values[0] + (values[values.length - 1] - values[0]) * (thousandth / 1000);
};

const histogram = remembered((column) => {
  const values = risingValues(column);
  const bins = new Array(BINS).fill(0);
  const span = values[values.length - 1] - values[0] || 1;
  for (const value of values) bins[Math.min(BINS - 1, Math.floor(((value - values[0]) / span) * BINS))] += 1;
  return bins;
});

function drawRange() {
  const values = risingValues(state.sort);
  const bins = values.length ? histogram(state.sort) : [];
  const [low, high] = [state.low ?? values[0], state.high ?? values[values.length - 1]];
  const most = Math.max(...bins);
  $("histogram").replaceChildren(...bins.map((images, place) => {
    const bar = make("i", valueAt((1000 * (place + 1)) / BINS) >= low && valueAt((1000 * place) / BINS) <= high ? "in" : "");
    bar.style.height = `${images ? 4 + 96 * Math.sqrt(images / most) : 0}%`;
    return bar;
  }));
  const span = values[values.length - 1] - values[0] || 1;
  $("low").value = state.low === null ? 0 : (1000 * (low - values[0])) / span;
  $("high").value = state.high === null ? 1000 : (1000 * (high - values[0])) / span;
  $("range-text").textContent = values.length ? `${inDigits(low)} to ${inDigits(high)}` : "no values";
}

function readRange() {
  const [low, high] = [Number($("low").value), Number($("high").value)].sort((a, b) => a - b);
  state.low = low > 0 ? valueAt(low) : null;
  state.high = high < 1000 ? valueAt(high) : null;
  update();
}

// Scroll so that the list begins at the top of the window.
function toList() {
  scrollTo(0, scrollY + $("explorer").getBoundingClientRect().top);
  draw();
}

// Make an image the current one; with `range`, select all images from the previous one to it.
function go(place, { range = false, detail = false } = {}) {
  if (!shown.length) return;
  const target = Math.max(0, Math.min(shown.length - 1, place));
  if (range) select(shown.subarray(Math.min(anchor, target), Math.max(anchor, target) + 1), true);
  else anchor = target;
  if (detail) openDetail(shown[target]);
  else point(shown[target]);
  reveal(target);
  remember();
}

function reveal(place) {
  const { top, bottom } = freePart();
  const at = topOf(place);
  if (at < top + GAP) scrollBy(0, at - top - GAP);
  else if (at + lineHeight() > bottom) scrollBy(0, at + lineHeight() - bottom);
  draw();
}

// The address stores the current view. Browsers block frequent changes, so they are delayed.
let soon = 0;
function remember() {
  clearTimeout(soon);
  soon = setTimeout(writeAddress, 200);
}

function writeAddress() {
  const kept = new URLSearchParams();
  if (state.sort) kept.set("sort", meta.scores[state.sort].name);
  if (state.up) kept.set("up", "1");
  if (state.text) kept.set("find", state.text);
  for (const name of ["kind", "label", "since", "low", "high"]) if (state[name] !== null) kept.set(name, state[name]);
  if (state.like && state.like.row !== null) kept.set("like", rows.rank[state.like.row]);
  if (!$("detail").hidden) kept.set("image", rows.rank[state.active]);
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (kept.has(name) && Number.isFinite(Number(kept.get(name))) ? Number(kept.get(name)) : null);
  const sort = meta.scores.findIndex(({ name }) => name === kept.get("sort"));
  Object.assign(state, { sort: Math.max(0, sort), up: kept.get("up") === "1", text: kept.get("find") ?? "" });
  for (const name of ["kind", "label", "since", "low", "high"]) state[name] = number(name);
  const like = rows.rank.indexOf(number("like") ?? 0);
  if (like < 0) state.like = null;
  else if (index.known && state.like?.row !== like) askRow(like);
  const active = rows.rank.indexOf(number("image") ?? 0);
  if (active >= 0) openDetail(active);
}

const stored = { // storage may be blocked or full; `write` returns whether the text was stored
  read: (name) => { try { return localStorage.getItem(name); } catch { return null; } },
  write: (name, text) => { try { localStorage.setItem(name, text); return true; } catch { return false; } },
};
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
function dress(theme = stored.read("sdclr-theme") ?? (prefersDark.matches ? "dark" : "light")) {
  document.documentElement.dataset.theme = theme;
}
function changeTheme() {
  dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  stored.write("sdclr-theme", document.documentElement.dataset.theme);
  drawOverview();
}
