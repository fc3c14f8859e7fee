// What the reader does, and how the page starts.
function onKey(event) {
  const typing = event.target.matches("input[type=search], select, input[type=range]");
  if (document.querySelector("dialog[open]") || (typing && event.key !== "Escape")) return;
  const place = state.active === null ? -1 : shown.indexOf(state.active);
  const page = across * Math.max(1, Math.floor($("grid").clientHeight / (side + GAP + CAPTION)));
  const moves = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page,
    Home: -shown.length, End: shown.length,
  };
  const onButton = event.target.matches("button, a");
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== "a") return;
    select(shown, true);
  } else if (event.key in moves) {
    const target = place + moves[event.key];
    // Up from the first line and down from the last stay where they are, not at the line's other end.
    const leaves = Math.abs(moves[event.key]) === across && across > 1 && (target < 0 || target >= shown.length);
    if (place < 0) go(0);
    else if (!leaves) go(target, { range: event.shiftKey });
  } else if (event.key === " " && !onButton) {
    if (place >= 0) select([state.active], !selected[state.active]);
    point();
  } else if (event.key === "/") $("search").focus();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "c") copyIds();
  else if (event.key === "t") changeTheme();
  else if (event.key === "Escape") {
    if (typing || state.text) {
      state.text = "";
      update();
      $("grid").focus();
    } else unselect();
  } else return;
  event.preventDefault();
}

function unselect() {
  select(rows.ids.keys(), false);
  point();
}

function onClick(event) {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  const place = Number(tile.id.slice(5));
  const row = shown[place];
  if (event.shiftKey) {
    go(place, { range: true });
    return;
  }
  if (event.ctrlKey || event.metaKey || event.target.matches(".mark")) select([row], !selected[row]);
  go(place);
}

function listBad() {
  if (!meta.bad.length) return;
  const title = `${inWords(meta.bad.length)} cannot be read`;
  $("show-bad").hidden = false;
  $("show-bad").textContent = title;
  $("show-bad").addEventListener("click", () => $("bad").showModal());
  $("bad-title").textContent = title;
  $("bad-csv").addEventListener("click", () => {
    save("bad_images.csv", "text/csv", asCsv(meta.bad.map(([id, reason]) => ({ id, reason })), ["id", "reason"]));
  });
  $("bad").querySelector("tbody").replaceChildren(...meta.bad.map(([id, reason]) => {
    const line = make("tr");
    line.append(make("td", "", id), make("td", "", reason));
    return line;
  }));
}

function listFacts() {
  const fact = (name, value) => {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", value));
    $("facts").append(pair);
  };
  fact("Images", meta.images.toLocaleString("en"));
  if (allClusters("").length) fact("Clusters", allClusters("").length.toLocaleString("en"));
  meta.scores.forEach(({ title, about, name }, column) => {
    const option = $("sort").appendChild(make("option", "", title));
    option.value = column;
    const line = $("glossary").appendChild(make("div"));
    line.append(make("dt", "", title), make("dd", "", about || `The column ${name}.`));
  });
  if (!meta.labelled) return;
  const counts = new Map();
  for (const label of rows.label) counts.set(label, (counts.get(label) ?? 0) + 1);
  $("label-field").hidden = false;
  $("label").append(make("option", "", "all"));
  $("label").firstChild.value = "";
  for (const [label, images] of [...counts].sort((a, b) => a[0] - b[0])) {
    const option = $("label").appendChild(make("option", "", `${labelName(label) || "none"} (${images.toLocaleString("en")})`));
    option.value = label;
  }
}

function listen() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  const put = (change) => { Object.assign(state, change); update(); };
  on("search", "input", () => put({ text: $("search").value }));
  on("sort", "change", () => put({ sort: Number($("sort").value), low: null, high: null }));
  on("direction", "click", () => put({ up: !state.up }));
  on("low", "input", readRange);
  on("high", "input", readRange);
  on("label", "change", () => put({ label: $("label").value === "" ? null : Number($("label").value) }));
  on("reset", "click", () => put({ text: "", cluster: null, label: null, low: null, high: null }));
  on("clusters", "click", (event) => {
    const cluster = Number(event.target.closest("button")?.dataset.cluster ?? NaN);
    if (!Number.isNaN(cluster)) put({ cluster: cluster === state.cluster ? null : cluster });
  });
  on("cluster-order", "click", () => { fewestFirst = !fewestFirst; listClusters(); });
  on("zoom", "input", () => { layout(); reveal(anchor); });
  on("grid", "scroll", () => draw());
  on("grid", "mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
  on("grid", "click", onClick);
  on("copy", "click", copyIds);
  on("csv", "click", saveCsv);
  on("json", "click", saveJson);
  on("unselect", "click", unselect);
  on("theme", "click", changeTheme);
  on("show-help", "click", () => $("help").showModal());
  document.addEventListener("keydown", onKey);
  prefersDark.addEventListener("change", () => dress());
  addEventListener("hashchange", () => { recall(); update(); });
  new ResizeObserver(() => layout()).observe($("grid"));
}

function start() {
  if (rows.loaded !== rows.count) {
    $("problem").hidden = false;
    $("problem").textContent = "Some of the scores could not be loaded: keep the folder that ends in _files beside this page.";
    return;
  }
  recall();
  listFacts();
  listBad();
  listClusters();
  listen();
  update();
}

dress();
document.addEventListener("DOMContentLoaded", start);
