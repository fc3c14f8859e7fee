// The detail panel of one image, selection, and export.
let opener = null; // the example that opened the panel; null if the list did

// Open the panel with an image, or show another image in it.
function openDetail(row, example = null) {
  opener = example;
  const opening = $("detail").hidden;
  const place = shown.indexOf(row);
  const dress = () => {
    $("detail").hidden = false;
    document.body.classList.add("detailed");
  };
  if (opening) layoutAround(Math.max(0, place), dress);
  point(row);
  const hidden = opener ? opener.getBoundingClientRect().bottom + GAP - freePart().bottom : 0;
  if (hidden > 0) scrollBy(0, hidden);
  remember();
}

function closeDetail() {
  if ($("detail").hidden) return;
  const within = $("detail").contains(document.activeElement);
  layoutAround(Math.max(0, shown.indexOf(state.active)), () => {
    $("detail").hidden = true;
    document.body.classList.remove("detailed");
  });
  if (within) (opener?.isConnected ? opener : $("grid")).focus({ preventScroll: true });
  opener = null;
  remember();
}

// Set the current image, and show it in the panel if that is open.
function point(row = state.active) {
  state.active = row;
  drawMapSoon(); // a ring around its dot
  const place = row === null ? -1 : shown.indexOf(row);
  if (place >= 0) $("grid").setAttribute("aria-activedescendant", `tile-${place}`);
  else $("grid").removeAttribute("aria-activedescendant");
  remark();
  const detail = $("detail");
  if (row === null || detail.hidden) return;
  const [box, actions, marking, close] = [make("div", "box"), make("div", "row"), make("div", "row"), button("×", closeDetail)];
  close.className = "close";
  close.title = "Close (Esc)";
  close.setAttribute("aria-label", "Close the detail view");
  actions.append(
    button("Copy id", () => copy([rows.ids[row]])),
    button(selected[row] ? "Unselect" : "Select", () => { select([row], !selected[row]); point(row); }),
    button("Find in list", () => findInList(row)),
    ...likeButton(row),
  );
  for (const [text, kind] of [["Keep", KEEP], ["Drop", DROP]]) {
    const found = button(text, () => { marks.set([row], marks.of(row) === kind ? NONE : kind); point(row); });
    found.setAttribute("aria-pressed", marks.of(row) === kind);
    marking.append(found);
  }
  marking.append(button(marks.label(row) ? `Label: ${visible(marks.label(row))}` : "Label …", () => askLabel([row])));
  marking.lastChild.setAttribute("aria-pressed", Boolean(marks.label(row)));
  detail.replaceChildren(close, box, make("p", "id", visible(rows.ids[row])), marking, actions, make("p", "why", visible(whyPicked(row))), ...oldOnes(row), scoreTable(row), factsOf(row));
  paint(box, row, box.clientWidth || 280);
  showFile(box, row);
  showWhole(box, row);
}

// The nearest images of the earlier collection. Images that the browser cannot show appear as names.
function oldOnes(row) {
  const list = make("div", "old");
  for (const { id, file, distance } of rows.old[row] ?? []) {
    const [figure, address, name] = [make("figure"), addressOfFile(file ?? undefined), visible(id)];
    const shape = make(address ? "a" : "span", "frame", name);
    if (address) {
      Object.assign(shape, { href: address, target: "_blank", title: `Open ${name}` });
      const image = new Image();
      image.alt = name;
      image.addEventListener("load", () => shape.replaceChildren(image));
      image.src = address;
    }
    figure.append(shape, make("figcaption", "", inDigits(distance)));
    figure.title = name;
    list.append(figure);
  }
  return list.childElementCount ? [make("h3", "", "Nearest old images"), list] : [];
}

// Show the image file once it is loaded. Until then, or if it cannot be read, the thumbnail is visible.
function showFile(box, row) {
  const address = addressOf(row);
  if (!address) return;
  const image = new Image();
  image.alt = "";
  image.title = "Open the file";
  image.addEventListener("click", () => open(address));
  image.addEventListener("load", () => box.replaceChildren(image));
  image.src = address;
}

// Show the image that contains a box, with a frame around the box.
function showWhole(box, row) {
  const whole = rows.wholes[row];
  const address = whole && addressOfFile(whole.file);
  if (!address) return;
  const [left, top, right, bottom] = whole.edges;
  const [figure, frame, image] = [make("figure", "whole"), make("i"), new Image()];
  const percent = (share) => `${100 * Math.min(1, Math.max(0, share))}%`;
  Object.assign(frame.style, { left: percent(left), top: percent(top), right: percent(1 - right), bottom: percent(1 - bottom) });
  image.alt = "The whole image, with a frame around this box";
  image.title = "Open the file";
  image.addEventListener("click", () => open(address));
  image.addEventListener("load", () => { if (box.isConnected) box.after(figure); });
  figure.append(image, frame);
  image.src = address;
}

const addressOf = (row) => addressOfFile(rows.files[row]);

function addressOfFile(file) {
  if (file === undefined || location.protocol !== "file:") return "";
  try {
    return file.split("/").map(encodeURIComponent).join("/");
  } catch {
    return ""; // a name that is not UTF-8
  }
}

function factsOf(row) {
  const facts = make("dl", "facts");
  const fact = (name, value) => {
    const pair = make("div");
    const definition = make("dd");
    definition.append(value);
    pair.append(make("dt", "", name), definition);
    facts.append(pair);
  };
  fact("Rank", `${rows.rank[row].toLocaleString("en")} of ${meta.rankedImages.toLocaleString("en")}`);
  const entry = kindOf(row);
  if (entry) fact("Kind", button(`${entry.kind} (${inWords(entry.size)})`, () => showKind(entry.kind)));
  if (odd.has(row)) fact("Odd one out", `number ${(meta.odd.indexOf(row) + 1).toLocaleString("en")} of ${odd.size.toLocaleString("en")}`);
  const copy = copies.get(row);
  if (copy) {
    const group = meta.duplicates[copy.number];
    fact("Near-duplicates", button(`group ${copy.number + 1} (${inWords(group.length)})`, () => { showKind(COPIES); go(shown.indexOf(row)); }));
  }
  if (rows.since[row]) fact("New since", moment(rows.since[row]));
  if (rows.label[row] >= 0) fact("Class", visible(labelName(rows.label[row])));
  return facts;
}

// Scroll to an image in the list. Filters that hide it are cleared.
function findInList(row) {
  if (!shown.includes(row)) {
    Object.assign(state, UNFILTERED);
    update();
  }
  anchor = shown.indexOf(row);
  reveal(anchor);
  point(row);
  $("grid").focus({ preventScroll: true });
}

function scoreTable(row) {
  const table = make("table");
  table.append(make("caption", "", "Value, and share of images with a lower value"));
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

// Export.
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

