// The page. Whatever comes from the collection is written as text, never as markup.
const $ = (id) => document.getElementById(id);
const state = { sort: 0, up: false, text: "", cluster: null, label: null, low: null, high: null, active: null };
const selected = new Uint8Array(rows.count);
const tiles = new Map(); // tiles on the page, by their place in `shown`
const spare = []; // tiles to be used again
const GAP = 10;
const CAPTION = 18;
let shown = new Uint32Array(0);
let selectedCount = 0;
let anchor = 0;
let fewestFirst = false;
let side = 112;
let across = 1;

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// Pictures: a cut-out of a sheet, scaled to fit a square.
function paint(box, row, edge) {
  const picture = box.firstChild ?? box.appendChild(make("div"));
  const [width, height] = [rows.sizes[2 * row], rows.sizes[2 * row + 1]];
  const style = picture.style;
  if (!width) {
    picture.className = "picture none";
    picture.textContent = edge < 50 ? "–" : row < meta.pictures ? "cannot be read" : "no picture";
    style.cssText = "";
    return;
  }
  const sheet = Math.floor(row / meta.across ** 2);
  const place = row % meta.across ** 2;
  const scale = edge / Math.max(width, height);
  const cell = meta.cells[sheet] * scale;
  picture.textContent = "";
  picture.className = scale >= 1.5 && meta.cells[sheet] <= 64 ? "picture tiny" : "picture";
  style.width = `${width * scale}px`;
  style.height = `${height * scale}px`;
  style.backgroundImage = `url("${meta.sheets[sheet]}")`;
  style.backgroundSize = `${cell * meta.across}px auto`;
  style.backgroundPosition = `${-cell * (place % meta.across)}px ${-cell * Math.floor(place / meta.across)}px`;
}

function newTile() {
  const tile = make("div", "tile");
  tile.setAttribute("role", "option");
  const caption = make("div", "caption");
  caption.append(make("b"), make("span"));
  tile.append(make("div", "box"), make("span", "mark"), caption);
  return tile;
}

function fill(tile, place) {
  const row = shown[place];
  const [box, , caption] = tile.children;
  tile.id = `tile-${place}`;
  tile.style.transform = `translate(${GAP + (place % across) * (side + GAP)}px, ${GAP + Math.floor(place / across) * (side + GAP + CAPTION)}px)`;
  tile.style.width = box.style.width = box.style.height = `${side}px`;
  paint(box, row, side);
  caption.firstChild.textContent = `#${rows.rank[row].toLocaleString("en")}`;
  caption.lastChild.textContent = side >= 80 ? inDigits(rows.scores[state.sort][row]) : "";
  tile.title = rows.ids[row];
  tile.setAttribute("aria-label", `${rows.ids[row]}, rank ${rows.rank[row]}`);
  tile.setAttribute("aria-setsize", shown.length);
  tile.setAttribute("aria-posinset", place + 1);
  mark(tile, row);
}

function mark(tile, row) {
  tile.setAttribute("aria-selected", selected[row] ? "true" : "false");
  tile.classList.toggle("active", row === state.active);
}

// Only what is in sight, and a little around it, is on the page.
function draw(again = false) {
  const grid = $("grid");
  const high = side + GAP + CAPTION;
  const first = Math.max(0, Math.floor(grid.scrollTop / high) - 2) * across;
  const last = Math.min(shown.length, (Math.ceil((grid.scrollTop + grid.clientHeight) / high) + 2) * across);
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
  $("sheet").style.height = `${GAP + Math.ceil(shown.length / across) * (side + GAP + CAPTION)}px`;
  draw(true);
}

function remark() {
  for (const [place, tile] of tiles) mark(tile, shown[place]);
  const chosen = selectedCount > 0;
  $("count").textContent = shown.length === rows.count ? inWords(rows.count) : `${shown.length.toLocaleString("en")} of ${inWords(rows.count)}`;
  $("what").textContent = chosen ? `${selectedCount.toLocaleString("en")} selected` : "All shown:";
  $("unselect").hidden = !chosen;
  for (const id of ["copy", "csv", "json"]) $(id).disabled = !chosen && shown.length === 0;
}

// Order and filters.
function update({ keepScroll = false } = {}) {
  shown = shownRows(state);
  anchor = Math.max(0, shown.indexOf(state.active));
  if (!keepScroll) $("grid").scrollTop = 0;
  const score = meta.scores[state.sort];
  $("sort").value = String(state.sort);
  $("direction").textContent = state.up ? "↑" : "↓";
  $("direction").title = state.up ? "Lowest first" : "Highest first";
  $("direction").setAttribute("aria-label", `${$("direction").title}; change`);
  $("about").textContent = score.about;
  $("reset").hidden = !(state.text || [state.cluster, state.label, state.low, state.high].some((value) => value !== null));
  for (const button of document.querySelectorAll("#clusters button")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.cluster) === state.cluster));
  }
  $("label").value = state.label === null ? "" : String(state.label);
  if ($("search").value !== state.text) $("search").value = state.text;
  drawRange();
  layout();
  remark();
  point();
  remember();
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

function listClusters() {
  const entries = fewestFirst ? [...allClusters("")].reverse() : allClusters("");
  const most = allClusters("")[0]?.images ?? 1;
  const inSight = new IntersectionObserver((changes) => {
    for (const { isIntersecting, target } of changes) {
      if (isIntersecting && !target.firstChild) paint(target, Number(target.dataset.row), 34);
    }
  }, { root: $("clusters") });
  $("cluster-field").hidden = entries.length === 0;
  $("cluster-order").textContent = fewestFirst ? "smallest first" : "largest first";
  $("clusters").replaceChildren(...entries.map((entry) => {
    const [item, button, box, share] = [make("li"), make("button"), make("span", "box"), make("span", "share")];
    button.type = "button";
    button.dataset.cluster = entry.cluster;
    button.setAttribute("aria-pressed", String(entry.cluster === state.cluster));
    // Its most ordinary image stands for it, where that has a picture.
    box.dataset.row = rows.sizes[2 * entry.ordinary] ? entry.ordinary : entry.rarest;
    share.append(make("i"));
    share.firstChild.style.width = `${(100 * entry.images) / most}%`;
    button.append(box, make("span", "", `Cluster ${entry.cluster}`), make("span", "size", inWords(entry.images)), share);
    box.style.gridRow = "1 / 3";
    item.append(button);
    inSight.observe(box);
    return item;
  }));
}

// The image in detail.
function point(row = state.active) {
  state.active = row;
  const place = row === null ? -1 : shown.indexOf(row);
  if (place >= 0) $("grid").setAttribute("aria-activedescendant", `tile-${place}`);
  else $("grid").removeAttribute("aria-activedescendant");
  remark();
  const detail = $("detail");
  detail.replaceChildren();
  if (row === null) {
    detail.append(make("p", "empty", "Choose an image to see its scores."));
    return;
  }
  const [box, actions] = [make("div", "box"), make("div", "row")];
  detail.append(box);
  paint(box, row, box.clientWidth || 280);
  actions.append(
    button("Copy id", () => copy([rows.ids[row]])),
    button(selected[row] ? "Unselect" : "Select", () => { select([row], !selected[row]); point(row); }),
  );
  const facts = make("dl", "facts");
  const fact = (name, value) => {
    const pair = make("div");
    const definition = make("dd");
    definition.append(value);
    pair.append(make("dt", "", name), definition);
    facts.append(pair);
  };
  fact("Rank", `${rows.rank[row].toLocaleString("en")} of ${rows.count.toLocaleString("en")}`);
  const entry = clusterOf(row);
  if (entry) {
    fact("Cluster", button(`${entry.cluster} (${inWords(entry.images)})`, () => { state.cluster = entry.cluster; update(); }));
  }
  if (rows.label[row] >= 0) fact("Label", labelName(rows.label[row]));
  detail.append(make("p", "id", rows.ids[row]), actions, make("p", "why", whyPicked(row)), scoreTable(row), facts);
}

function scoreTable(row) {
  const table = make("table");
  table.append(make("caption", "", "Value, and the share of images with a lower one"));
  meta.scores.forEach(({ title, about }, column) => {
    const value = rows.scores[column][row];
    const share = Number.isNaN(value) ? 0 : percentSmaller(column, value);
    const [top, line, name, bar] = [make("tr"), make("tr", "line"), make("th", "", title), make("td")];
    name.scope = "row";
    name.title = about;
    top.append(name, make("td", "", inDigits(value)), make("td", "small", Number.isNaN(value) ? "" : inPercent(share)));
    bar.colSpan = 3;
    bar.append(make("div", "share"));
    bar.firstChild.append(make("i"));
    bar.firstChild.firstChild.style.width = `${share}%`;
    line.append(bar);
    table.append(top, line);
  });
  return table;
}

function button(text, act) {
  const found = make("button", "", text);
  found.type = "button";
  found.addEventListener("click", act);
  return found;
}

// Selection.
function select(which, on) {
  for (const row of which) {
    selectedCount += Number(on) - selected[row];
    selected[row] = on ? 1 : 0;
  }
  remark();
}

function go(place, { range = false } = {}) {
  if (!shown.length) return;
  const target = Math.max(0, Math.min(shown.length - 1, place));
  if (range) select(shown.subarray(Math.min(anchor, target), Math.max(anchor, target) + 1), true);
  else anchor = target;
  reveal(target);
  point(shown[target]);
  remember();
}

function reveal(place) {
  const grid = $("grid");
  const high = side + GAP + CAPTION;
  const top = GAP + Math.floor(place / across) * high;
  if (top < grid.scrollTop) grid.scrollTop = top - GAP;
  else if (top + high > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + high - grid.clientHeight;
  draw();
}

// What leaves the page.
const leaving = () => (selectedCount ? rowsBy("0:down").filter((row) => selected[row]) : shown);

async function copy(ids) {
  const text = ids.join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.body.appendChild(make("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${inWords(ids.length, "id")} copied`);
}

function save(name, kind, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const saveCsv = () => {
  const records = Array.from(leaving(), record);
  save("images.csv", "text/csv", asCsv(records, Object.keys(records[0])));
};
const saveJson = () => save("images.json", "application/json", `${JSON.stringify(Array.from(leaving(), record), null, 1)}\n`);
const copyIds = () => copy(Array.from(leaving(), (row) => rows.ids[row]));

let silence = 0;
function say(text) {
  $("toast").textContent = text;
  $("toast").classList.add("on");
  clearTimeout(silence);
  silence = setTimeout(() => $("toast").classList.remove("on"), 1800);
}

// The address keeps what is shown. Browsers refuse to have it changed hundreds of times.
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
  for (const name of ["cluster", "label", "low", "high"]) if (state[name] !== null) kept.set(name, state[name]);
  if (state.active !== null) kept.set("image", rows.rank[state.active]);
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (kept.has(name) && Number.isFinite(Number(kept.get(name))) ? Number(kept.get(name)) : null);
  const sort = meta.scores.findIndex(({ name }) => name === kept.get("sort"));
  Object.assign(state, { sort: Math.max(0, sort), up: kept.get("up") === "1", text: kept.get("find") ?? "" });
  for (const name of ["cluster", "label", "low", "high"]) state[name] = number(name);
  const active = rows.rank.indexOf(number("image") ?? 0);
  state.active = active >= 0 ? active : rows.count ? 0 : null;
}

const stored = { // a browser may forbid it
  read: () => { try { return localStorage.getItem("sdclr-theme"); } catch { return null; } },
  write: (theme) => { try { localStorage.setItem("sdclr-theme", theme); } catch { /* lasts as long as the page */ } },
};
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
function dress(theme = stored.read() ?? (prefersDark.matches ? "dark" : "light")) {
  document.documentElement.dataset.theme = theme;
}
function changeTheme() {
  dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  stored.write(document.documentElement.dataset.theme);
}
