// The map: one dot per image, close together for similar images. A loop around dots filters the list.
const WIDE = 65534; // maximum coordinate of the map
const NEAR = 12; // maximum distance in pixels between the pointer and its dot
const view = { zoom: 1, x: WIDE / 2, y: WIDE / 2 }; // zoom and center of the visible part
let loop = null; // corners of the loop being drawn, in pixels
let colorBy = "kind";
let mapSoon = 0;

const hasPlace = (row) => rows.map[2 * row] <= WIDE;
const mapSide = () => $("map").clientWidth;
const perUnit = () => ((mapSide() - 16) * view.zoom) / WIDE;
const toPixels = (row) => [
  mapSide() / 2 + (rows.map[2 * row] - view.x) * perUnit(), mapSide() / 2 - (rows.map[2 * row + 1] - view.y) * perUnit(),
];
const toMap = ([x, y]) => [view.x + (x - mapSide() / 2) / perUnit(), view.y - (y - mapSide() / 2) / perUnit()];

const HUES = ["#d1495b", "#2a9d8f", "#8e5bd0", "#e08b1d", "#3b78c4", "#6a994e", "#c2529b", "#00809d", "#9c6b30", "#5c6bc0"];
const STEPS = 16;
// From dark blue to yellow: readable in gray and with red-green color blindness.
const RAMP = Array.from({ length: STEPS }, (_, step) => {
  const at = step / (STEPS - 1);
  return `hsl(${250 - 195 * at} ${60 + 25 * at}% ${32 + 28 * at}%)`;
});

// The largest kind is gray. The others have one color each, rarest first. Colors repeat for many kinds.
const hueOfKind = remembered((kind) => (kind === 0 ? -1 : kinds.findIndex((entry) => entry.kind === kind) % HUES.length));
const colorOfKind = (kind) => HUES[hueOfKind(kind)] ?? "var(--dot)";

// The color index of each row, and the list of colors. Later colors are drawn over earlier ones.
const coloring = remembered((by) => {
  const of = new Uint8Array(rows.count);
  if (by === "kind") {
    for (let row = 0; row < rows.count; row += 1) of[row] = rows.kind[row] < 0 ? 0 : 1 + hueOfKind(rows.kind[row]);
    const several = kinds.filter(({ kind }) => kind !== 0);
    const names = several.length > HUES.length ? [] : several.map(({ kind }) => `kind ${kind}`);
    return { of, colors: ["gray", ...HUES], names: kinds.length ? ["the largest kind", ...(names.length ? names : ["one color per other kind; colors repeat"])] : [] };
  }
  if (by === "label") {
    for (let row = 0; row < rows.count; row += 1) of[row] = rows.label[row] < 0 ? 0 : 1 + (rows.label[row] % HUES.length);
    const names = meta.classes.length <= HUES.length ? meta.classes : [];
    return { of, colors: ["gray", ...HUES], names: ["none", ...names] };
  }
  const column = Number(by);
  const values = rows.scores[column];
  const rising = risingValues(column);
  // Color by rank, so that a few extreme values do not use most colors.
  const limits = Array.from({ length: STEPS - 1 }, (_, step) => rising[Math.floor(((step + 1) * rising.length) / STEPS)]);
  for (let row = 0; row < rows.count; row += 1) {
    let step = 0;
    while (step < STEPS - 1 && values[row] >= limits[step]) step += 1;
    of[row] = step;
  }
  return { of, colors: RAMP, names: null };
});

function drawMapSoon() {
  if (!meta.map || mapSoon) return;
  mapSoon = requestAnimationFrame(() => { mapSoon = 0; drawMap(); });
}

function drawMap() {
  const canvas = $("map");
  const side = mapSide();
  if (!side) return;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(side * ratio)) canvas.width = canvas.height = Math.round(side * ratio);
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, side, side);
  const style = getComputedStyle(document.documentElement);
  const { of, colors } = coloring(colorBy);
  const inList = shown.length === rows.count ? null : new Uint8Array(rows.count);
  if (inList) for (const row of shown) inList[row] = 1;
  const dot = Math.max(1.5, Math.min(5, (side / Math.sqrt(rows.count)) * 0.16 * Math.sqrt(view.zoom) + 1));
  const [scale, half] = [perUnit(), side / 2];
  const buckets = colors.map(() => []);
  for (let row = 0; row < rows.count; row += 1) if (hasPlace(row)) buckets[of[row]].push(row);
  const drawAll = (wanted, opacity) => colors.forEach((color, bucket) => {
    pen.fillStyle = color === "gray" ? style.getPropertyValue("--dot") : color;
    pen.globalAlpha = opacity;
    for (const row of buckets[bucket]) {
      if (inList && inList[row] !== wanted) continue;
      const x = half + (rows.map[2 * row] - view.x) * scale;
      const y = half - (rows.map[2 * row + 1] - view.y) * scale;
      if (x > -5 && y > -5 && x < side + 5 && y < side + 5) pen.fillRect(x - dot / 2, y - dot / 2, dot, dot);
    }
  });
  if (inList) drawAll(0, 0.12);
  drawAll(1, 0.85);
  pen.globalAlpha = 1;
  if (state.active !== null && hasPlace(state.active)) {
    const [x, y] = toPixels(state.active);
    pen.strokeStyle = style.getPropertyValue("--ink");
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(x, y, 6, 0, 2 * Math.PI);
    pen.stroke();
  }
  if (loop) {
    pen.strokeStyle = style.getPropertyValue("--accent");
    pen.setLineDash([4, 3]);
    pen.beginPath();
    for (const [x, y] of loop) pen.lineTo(x, y);
    pen.closePath();
    pen.stroke();
    pen.setLineDash([]);
  }
}

// Rows by the square of the map that contains them, to find the nearest one without comparing all.
const SQUARES = 128;
const square = (value) => Math.max(0, Math.min(SQUARES - 1, Math.floor((value * SQUARES) / (WIDE + 1))));
const bySquare = remembered(() => {
  const squares = Array.from({ length: SQUARES ** 2 }, () => []);
  for (let row = 0; row < rows.count; row += 1) {
    if (hasPlace(row)) squares[square(rows.map[2 * row]) + SQUARES * square(rows.map[2 * row + 1])].push(row);
  }
  return squares;
});

function dotAt(pixel) {
  const [x, y] = toMap(pixel);
  const reach = NEAR / perUnit();
  let [best, nearest] = [null, reach ** 2];
  for (let down = square(y - reach); down <= square(y + reach); down += 1) {
    for (let along = square(x - reach); along <= square(x + reach); along += 1) {
      for (const row of bySquare("")[along + SQUARES * down]) {
        const far = (rows.map[2 * row] - x) ** 2 + (rows.map[2 * row + 1] - y) ** 2;
        if (far < nearest) [best, nearest] = [row, far];
      }
    }
  }
  return best;
}

// Whether each row is inside a loop: the number of loop sides to the right of the dot is odd.
function inside(corners) {
  const found = new Uint8Array(rows.count);
  for (let row = 0; row < rows.count; row += 1) {
    if (!hasPlace(row)) continue;
    const [x, y] = [rows.map[2 * row], rows.map[2 * row + 1]];
    let within = 0;
    for (let at = 0, before = corners.length - 1; at < corners.length; before = at, at += 1) {
      const [[ax, ay], [bx, by]] = [corners[at], corners[before]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within ^= 1;
    }
    found[row] = within;
  }
  return found;
}

function showTip(row, [x, y]) {
  const tip = $("map-tip");
  tip.hidden = row === null;
  if (row === null) return;
  paint(tip.firstElementChild, row, 112);
  const kind = kindOf(row) ? `kind ${rows.kind[row]}` : `#${rows.rank[row].toLocaleString("en")}`;
  tip.lastElementChild.textContent = `${visible(rows.ids[row])} · ${marks.label(row) ? visible(marks.label(row)) : kind}`;
  tip.style.left = `${Math.max(0, Math.min(mapSide() - tip.offsetWidth, x + 14))}px`;
  tip.style.top = `${y + 14 + tip.offsetHeight > mapSide() ? y - 14 - tip.offsetHeight : y + 14}px`;
}

function zoomMap(factor, middle = [mapSide() / 2, mapSide() / 2]) {
  const before = toMap(middle);
  view.zoom = Math.max(1, Math.min(64, view.zoom * factor));
  const after = toMap(middle);
  view.x += before[0] - after[0];
  view.y += before[1] - after[1];
  if (view.zoom === 1) Object.assign(view, { x: WIDE / 2, y: WIDE / 2 });
  drawMapSoon();
}

// The nearest dot of a row in the direction of an arrow key.
function dotBeside(row, key) {
  const [along, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[key];
  const places = rows.map;
  let [best, nearest] = [row, Infinity];
  for (let other = 0; other < rows.count; other += 1) {
    if (other === row || !hasPlace(other)) continue;
    const [dx, dy] = [places[2 * other] - places[2 * row], places[2 * other + 1] - places[2 * row + 1]];
    const [ahead, aside] = [along * dx + up * dy, Math.abs(along ? dy : dx)];
    if (ahead > aside && ahead + 2 * aside < nearest) [best, nearest] = [other, ahead + 2 * aside];
  }
  return best;
}

const middleOfKeys = () => (state.active !== null && hasPlace(state.active) ? toPixels(state.active) : undefined);

function onMapKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const first = shown.find(hasPlace);
  if (event.key.startsWith("Arrow") && first !== undefined) {
    const from = state.active !== null && hasPlace(state.active) ? dotBeside(state.active, event.key) : first;
    point(from);
    if (view.zoom > 1) [view.x, view.y] = [rows.map[2 * from], rows.map[2 * from + 1]];
    showTip(from, toPixels(from));
    drawMapSoon();
  } else if (event.key === "Enter" && state.active !== null) openDetail(state.active);
  else if (event.key === "+" || event.key === "=") zoomMap(1.5, middleOfKeys());
  else if (event.key === "-") zoomMap(1 / 1.5, middleOfKeys());
  else if (event.key === "0") zoomMap(1e-9);
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function listenToMap() {
  const canvas = $("map");
  const at = (event) => [event.offsetX, event.offsetY];
  let grip = null; // the map position under the pointer while dragging
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button > 1) return;
    if (event.button === 1 || event.shiftKey) grip = toMap(at(event));
    else loop = [at(event)];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = at(event);
    if (grip) {
      const now = toMap(here);
      view.x += grip[0] - now[0];
      view.y += grip[1] - now[1];
    } else if (loop) {
      const [x, y] = loop.at(-1);
      if (Math.hypot(here[0] - x, here[1] - y) >= 4) loop.push(here);
    } else return showTip(dotAt(here), here);
    showTip(null, here);
    return drawMapSoon();
  });
  canvas.addEventListener("pointerup", (event) => {
    const drawn = loop;
    const held = grip;
    loop = grip = null;
    if (held) return;
    if (drawn && drawn.length > 3) {
      state.area = inside(drawn.map(toMap));
      update();
      say(`${inWords(shown.length)} in the area, listed below`);
      return;
    }
    const row = dotAt(at(event));
    if (row !== null) openDetail(row);
    drawMapSoon();
  });
  canvas.addEventListener("pointercancel", () => { loop = grip = null; drawMapSoon(); });
  canvas.addEventListener("pointerleave", () => showTip(null, [0, 0]));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the page scrolls
    event.preventDefault();
    zoomMap(event.deltaY < 0 ? 1.25 : 0.8, at(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomMap(2, at(event)));
  canvas.addEventListener("keydown", onMapKey);
  canvas.addEventListener("blur", () => showTip(null, [0, 0]));
  $("map-in").addEventListener("click", () => zoomMap(1.5));
  $("map-out").addEventListener("click", () => zoomMap(1 / 1.5));
  $("map-color").addEventListener("change", () => { colorBy = $("map-color").value; tellColors(); drawMapSoon(); });
  new ResizeObserver(drawMapSoon).observe(canvas);
}

function tellColors() {
  const { colors, names } = coloring(colorBy);
  const legend = $("map-legend");
  if (!names) {
    const ramp = make("span", "ramp");
    ramp.append(...RAMP.map((color) => {
      const step = make("i");
      step.style.background = color;
      return step;
    }));
    legend.replaceChildren("low ", ramp, " high");
    return;
  }
  legend.replaceChildren(...names.map((name, place) => {
    const entry = make("span", "swatch", visible(name));
    const dot = make("i");
    if (colors[place] !== "gray") dot.style.background = colors[place];
    entry.prepend(dot);
    return entry;
  }));
}

function listMap() {
  $("map-section").hidden = !meta.map || rows.count < 3;
  if ($("map-section").hidden) return;
  const option = (text, value) => { $("map-color").appendChild(make("option", "", text)).value = value; };
  if (kinds.length) option("Kind", "kind");
  meta.scores.forEach(({ title }, column) => option(title, column));
  if (meta.labeled) option("Class", "label");
  colorBy = $("map-color").value;
  tellColors();
  listenToMap();
}
