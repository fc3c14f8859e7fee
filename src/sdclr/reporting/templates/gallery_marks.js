// Marks: keep, drop, or a label. The browser stores them for this collection, and the page exports them as a table.
const [NONE, KEEP, DROP] = [0, 1, 2];
const MARKS = ["", "keep", "drop"];

const marks = {
  kinds: new Uint8Array(rows.count),
  labels: new Map(),
  undone: [], // previous values of each change, latest last
  of: (row) => marks.kinds[row],
  label: (row) => marks.labels.get(row) ?? "",
  rows: () => rowsBy("0:down").filter((row) => marks.kinds[row] || marks.labels.has(row)),

  set(which, kind) { marks.change(which, () => ({ kind })); },
  setLabel(which, label) { marks.change(which, () => ({ label })); },
  clear(which) { marks.change(which, () => ({ kind: NONE, label: "" })); },
  // `to` returns the new values of a row; omitted values stay.
  change(which, to) {
    marks.undone.push(Array.from(which, (row) => [row, marks.of(row), marks.label(row)]));
    for (const row of which) marks.put(row, to(row));
    marks.changed();
  },
  put(row, { kind = marks.of(row), label = marks.label(row) }) {
    marks.kinds[row] = kind;
    if (label) marks.labels.set(row, label);
    else marks.labels.delete(row);
  },
  undo() {
    const last = marks.undone.pop();
    if (!last) return say("Nothing to undo");
    for (const [row, kind, label] of last) marks.put(row, { kind, label });
    marks.changed();
    return say("Undone");
  },
  changed() {
    tellMarks();
    if (state.kind === MARKED) update();
    point();
    marks.keep();
  },

  // Stored by id, so that marks survive another mining of the same images. A browser may block storage.
  keep() {
    const kept = { ...marks.elsewhere };
    for (const row of marks.rows()) kept[rows.ids[row]] = [marks.of(row), marks.label(row)];
    marks.safe = stored.write(marks.key, JSON.stringify(kept)) || marks.rows().length === 0;
    if (!marks.safe) complain("The browser cannot store marks. Save them before you close the page.");
  },
  recall() {
    marks.kinds.fill(NONE);
    marks.labels.clear();
    marks.elsewhere = {};
    for (const [id, [kind, label]] of Object.entries(JSON.parse(stored.read(marks.key) ?? "{}"))) {
      if (rowOf(id) === undefined) marks.elsewhere[id] = [kind, label];
      else marks.put(rowOf(id), { kind, label });
    }
  },
  key: `sdclr-marks-${meta.key}`,
  elsewhere: {}, // marks of images that are not on this page; they are kept
  safe: true,
};

const byId = remembered(() => new Map(rows.ids.map((id, row) => [id, row])));
// A saved file has a replacement character for each byte of a name that is not UTF-8.
const byWholeId = remembered(() => {
  const found = new Map();
  rows.ids.forEach((id, row) => { if (!id.isWellFormed()) found.set(id.toWellFormed(), found.has(id.toWellFormed()) ? undefined : row); });
  return found;
});
const rowOf = (id) => byId("").get(id) ?? byWholeId("").get(id);

// The images that a command applies to: the selected ones, otherwise the current one.
const meant = () => (selectedCount ? rowsBy("0:down").filter((row) => selected[row]) : state.active === null ? [] : [state.active]);

function give(kind) {
  const which = meant();
  if (!which.length) return say("Select images first");
  const all = Array.from(which).every((row) => marks.of(row) === kind);
  marks.set(which, all ? NONE : kind); // marking again removes the mark
  return say(`${inWords(which.length)} ${all ? "unmarked" : `marked: ${MARKS[kind]}`}. Ctrl+Z undoes.`);
}

function askLabel(which = meant()) {
  if (!which.length) return say("Select images first");
  const known = new Set([...marks.labels.values(), ...meta.classes]);
  $("known-labels").replaceChildren(...[...known].slice(0, 1000).map((label) => {
    const option = make("option");
    option.value = label;
    return option;
  }));
  $("labeling-title").textContent = `Label ${inWords(which.length)}`;
  $("label-text").value = which.length === 1 ? marks.label(which[0]) : "";
  $("labeling").querySelector("form").onsubmit = (event) => {
    if (event.submitter.value !== "give") return;
    const label = $("label-text").value.trim();
    marks.setLabel(which, label);
    say(label ? `${inWords(which.length)} labeled. Ctrl+Z undoes.` : `No label for ${inWords(which.length)}`);
  };
  return $("labeling").showModal();
}

function tellMarks() {
  let [keep, drop] = [0, 0];
  for (const kind of marks.kinds) {
    keep += kind === KEEP;
    drop += kind === DROP;
  }
  const parts = [[keep, "keep"], [drop, "drop"], [marks.labels.size, "labeled"]].filter(([count]) => count);
  const total = marks.rows().length;
  $("marks-note").textContent = total ? parts.map(([count, name]) => `${count.toLocaleString("en")} ${name}`).join(" · ") : "Nothing is marked yet";
  $("show-marks").hidden = $("clear-marks").hidden = total === 0;
  for (const id of ["save-marks", "save-marks-2"]) {
    $(id).hidden = total === 0;
    $(id).textContent = `Save ${inWords(total, "mark")}`;
  }
}

// The absolute path of an image, from its path relative to the page.
function pathOf(row) {
  const file = rows.files[row];
  if (file === undefined || location.protocol !== "file:") return "";
  if (/^(\/|[A-Za-z]:\/)/.test(file)) return file;
  let folder = "";
  try { folder = decodeURIComponent(location.pathname); } catch { return ""; } // a name that is not UTF-8
  const parts = folder.replace(/^\/([A-Za-z]:\/)/, "$1").split("/").slice(0, -1);
  const own = file.split("/");
  while (own[0] === ".." && parts.length > 1) {
    own.shift();
    parts.pop();
  }
  return [...parts, ...own].join("/");
}

function saveMarks() {
  const records = Array.from(marks.rows(), (row) => ({ path: pathOf(row), id: rows.ids[row], mark: MARKS[marks.of(row)], label: marks.label(row) }));
  save("marks.csv", "text/csv", asCsv(records, ["path", "id", "mark", "label"]));
  say("Saved. Next: sdclr apply marks.csv");
}

// Parse the cells of a CSV file, quoted as by Excel and Python. Spreadsheets may separate cells by semicolons.
function fromCsv(text) {
  const lines = [[]];
  const separator = /^[^,\r\n]*;/.test(text) ? ";" : ",";
  const cells = new RegExp(`(?:"((?:[^"]|"")*)"|([^${separator}\r\n]*))(${separator}|\r\n|\n|\r|$)`, "gy");
  for (let found = cells.exec(text); found; found = cells.exec(text)) {
    lines.at(-1).push(unguarded(found[1]?.replaceAll('""', '"') ?? found[2]));
    if (cells.lastIndex >= text.length && found[3] !== separator) break;
    if (found[3] !== separator) lines.push([]);
  }
  return lines.filter((line) => line.length > 1 || line[0]);
}

async function loadMarks(file) {
  const [header, ...lines] = fromCsv((await file.text()).replace(/^\ufeff/, ""));
  const names = header?.map((name) => name.trim().toLowerCase()) ?? [];
  const place = Object.fromEntries(["id", "mark", "label"].map((name) => [name, names.indexOf(name)]));
  if (place.id < 0 || (place.mark < 0 && place.label < 0)) {
    complain(`${file.name} holds no marks: choose a CSV file with the columns id, mark and label.`);
    return;
  }
  const found = new Map();
  let strange = 0;
  for (const line of lines) {
    const [row, kind] = [rowOf(line[place.id]), MARKS.indexOf((line[place.mark] ?? "").trim().toLowerCase())];
    if (row === undefined || kind < 0) strange += 1;
    else found.set(row, { ...(place.mark < 0 ? {} : { kind }), ...(place.label < 0 ? {} : { label: line[place.label] ?? "" }) });
  }
  marks.change([...found.keys()], (row) => found.get(row));
  $("problem").hidden = true;
  say(`${inWords(found.size, "mark")} loaded. Ctrl+Z undoes.${strange ? ` ${inWords(strange, "row")} left out: no such image or mark.` : ""}`);
}
