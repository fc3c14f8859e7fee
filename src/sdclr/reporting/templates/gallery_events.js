// Keys, clicks and the start of the page.
const ARROWS = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]);

let tabbed = false; // whether the last key was Tab
function onKey(event) {
  tabbed = event.key === "Tab";
  const typing = event.target.matches("input[type=search], select, input[type=range]");
  if (document.querySelector("dialog[open]") || (typing && event.key !== "Escape") || event.altKey) return;
  const inList = event.target === $("grid");
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() === "a" && inList) select(shown, true);
    else if (event.key.toLowerCase() === "z") marks.undo();
    else return;
  } else if (event.target.matches(".thumb") && ARROWS.has(event.key)) moveThumb(event.target, event.key);
  else if (inList && moves(event)) { /* done */ }
  else if (event.key === "/") $("search").focus();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "c") copyIds();
  else if (event.key === "k") give(KEEP);
  else if (event.key === "x") give(DROP);
  else if (event.key === "l") askLabel();
  else if (event.key === "s") saveMarks();
  else if (event.key === "t") changeTheme();
  else if (event.key === "Escape") {
    if (event.target.matches("input[type=search]") || state.text) {
      state.text = "";
      update();
      $("grid").focus({ preventScroll: true });
    } else if (!$("detail").hidden) closeDetail();
    else unselect();
  } else return;
  event.preventDefault();
}

// Handle a key in the list. Returns whether it was handled.
function moves(event) {
  const place = state.active === null ? -1 : shown.indexOf(state.active);
  const page = across * Math.max(1, Math.floor((freePart().bottom - freePart().top) / lineHeight()));
  const steps = {
    ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -page, PageDown: page,
    Home: -shown.length, End: shown.length,
  };
  if (event.key === " ") {
    if (place >= 0) select([state.active], !selected[state.active]);
    point();
    return true;
  }
  if (event.key === "Enter") {
    if (place >= 0) openDetail(state.active);
    return true;
  }
  if (!(event.key in steps)) return false;
  const target = place + steps[event.key];
  // Up in the first line and down in the last line do not move.
  const leaves = Math.abs(steps[event.key]) === across && across > 1 && (target < 0 || target >= shown.length);
  if (place < 0) go(event.key === "End" ? shown.length - 1 : 0);
  else if (!leaves) go(target, { range: event.shiftKey });
  return true;
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
  const selects = event.ctrlKey || event.metaKey || event.target.matches(".mark");
  if (selects) select([row], !selected[row]);
  go(place, { detail: !selects });
}

function listBad() {
  if (!meta.bad.length) return;
  const title = `${inWords(meta.bad.length)} could not be read`;
  $("show-bad").hidden = false;
  $("show-bad").textContent = `${meta.bad.length.toLocaleString("en")} unreadable`;
  $("show-bad").addEventListener("click", () => $("bad").showModal());
  $("bad-title").textContent = title;
  $("bad-csv").addEventListener("click", () => {
    save("bad_images.csv", "text/csv", asCsv(meta.bad.map(([id, reason]) => ({ id, reason })), ["id", "reason"]));
  });
  $("bad").querySelector("tbody").replaceChildren(...meta.bad.map(([id, reason]) => {
    const line = make("tr");
    line.append(make("td", "", visible(id)), make("td", "", visible(reason)));
    return line;
  }));
}

function listScores() {
  meta.scores.forEach(({ title, about, name }, column) => {
    const option = $("sort").appendChild(make("option", "", title));
    option.value = column;
    const line = $("glossary").appendChild(make("div"));
    line.append(make("dt", "", title), make("dd", "", about || `The column ${name} of the table.`));
  });
  if (!meta.labeled) return;
  const counts = new Map();
  for (const label of rows.label) counts.set(label, (counts.get(label) ?? 0) + 1);
  $("label-field").hidden = false;
  $("label").append(make("option", "", "All"));
  $("label").firstChild.value = "";
  for (const [label, images] of [...counts].sort((a, b) => a[0] - b[0])) {
    const option = $("label").appendChild(make("option", "", `${visible(labelName(label)) || "none"} (${images.toLocaleString("en")})`));
    option.value = label;
  }
}

function listen() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  const put = (change) => { Object.assign(state, change); update(); };
  on("search", "input", () => put({ text: $("search").value }));
  on("sort", "change", () => put({ sort: Number($("sort").value), low: null, high: null, like: null }));
  on("direction", "click", () => put({ up: !state.up, like: null }));
  on("low", "input", readRange);
  on("high", "input", readRange);
  on("since", "change", () => put({ since: $("since").value === "" ? null : Number($("since").value) }));
  on("label", "change", () => put({ label: $("label").value === "" ? null : Number($("label").value) }));
  on("kind", "change", () => put({ kind: $("kind").value === "" ? null : Number($("kind").value) }));
  on("reset", "click", () => put(UNFILTERED));
  on("more-kinds", "click", () => listKinds(MORE).querySelector(".thumb").focus());
  on("all-shown", "click", () => select(shown, true));
  on("keep", "click", () => give(KEEP));
  on("drop", "click", () => give(DROP));
  on("give-label", "click", () => askLabel());
  for (const id of ["save-marks", "save-marks-2"]) on(id, "click", saveMarks);
  on("show-marks", "click", () => showKind(MARKED));
  on("clear-marks", "click", () => { marks.clear(marks.rows()); say("All marks removed. Ctrl+Z undoes."); });
  on("load-marks", "click", () => $("marks-file").click());
  on("marks-file", "change", () => { if ($("marks-file").files.length) loadMarks($("marks-file").files[0]); $("marks-file").value = ""; });
  on("to-top", "click", () => { scrollTo(0, 0); $("show-help").focus({ preventScroll: true }); });
  on("zoom", "input", () => layoutAround(anchor));
  on("grid", "focus", () => {
    if (!tabbed) return;
    if (state.active === null || shown.indexOf(state.active) < 0) go(0);
    else reveal(shown.indexOf(state.active));
  });
  on("grid", "mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
  on("grid", "click", onClick);
  on("copy", "click", copyIds);
  on("csv", "click", saveCsv);
  on("json", "click", saveJson);
  on("unselect", "click", unselect);
  on("theme", "click", changeTheme);
  on("show-help", "click", () => $("help").showModal());
  for (const id of ["kind-list", "rarest-strip", "odd-strip", "copies-strip", "next-strip"]) {
    on(id, "click", (event) => {
      const thumb = event.target.closest(".thumb");
      if (!thumb) return;
      openDetail(Number(thumb.dataset.row), thumb);
      if (event.detail === 0) $("detail").querySelector(".close").focus(); // opened with a key
    });
  }
  listenForLike();
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", () => draw(), { passive: true });
  addEventListener("resize", () => draw());
  isNarrow.addEventListener("change", () => { $("filters").open = !isNarrow.matches; point(); });
  prefersDark.addEventListener("change", () => { dress(); drawOverview(); });
  addEventListener("storage", (event) => { // another tab marked images of this collection
    if (event.key !== marks.key) return;
    marks.recall();
    marks.undone.length = 0;
    tellMarks();
    if (state.kind === MARKED) update();
    point();
  });
  addEventListener("beforeunload", (event) => { if (!marks.safe) event.preventDefault(); });
  addEventListener("hashchange", () => { recall(); update(); });
  new ResizeObserver(() => layoutAround(anchor)).observe($("grid"));
}

function start() {
  if (rows.loaded !== rows.count) {
    document.querySelector("main").hidden = true;
    complain("Some scores could not be loaded. Keep the folder that ends in _files next to this page. If the page is in an archive, unpack all of it first.");
    return;
  }
  marks.recall();
  $("filters").open = !isNarrow.matches;
  listScores();
  listBad();
  shown = shownRows(state);
  listOverview();
  tellMarks();
  recall();
  listen();
  update();
}

dress();
document.addEventListener("DOMContentLoaded", start);
