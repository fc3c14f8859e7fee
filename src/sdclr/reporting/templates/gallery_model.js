"use strict";
// The data of the collection. Rows are in rank order, rarest first. This file does not change the page.
const meta = JSON.parse(document.getElementById("meta").textContent);

const rows = {
  count: meta.rows,
  loaded: 0,
  ids: new Array(meta.rows),
  why: null,
  rank: new Int32Array(meta.rows),
  percentile: new Float32Array(meta.rows),
  kind: new Int32Array(meta.rows).fill(-1),
  label: new Int32Array(meta.rows).fill(-1),
  sizes: new Uint16Array(2 * meta.rows),
  map: new Uint16Array(2 * meta.rows).fill(65535), // from 0 to 65534; 65535 for images that are not on the map
  files: new Array(meta.rows), // paths relative to this page
  since: new Int32Array(meta.rows), // seconds since 1970 when an image was added or changed; 0 for those of the first call
  old: new Array(meta.rows), // the nearest images of the earlier collection: id, file and distance of each
  wholes: new Array(meta.rows), // for a box: the path of its image, and its edges as fractions of the image's sides
  scores: meta.scores.map(() => new Float32Array(meta.rows)),
};

// Decode numbers from bytes in base64.
function numbers(text, Kind) {
  if (Uint8Array.fromBase64) return new Kind(Uint8Array.fromBase64(text).buffer);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place);
  return new Kind(bytes.buffer);
}

// Each data script calls this.
function sdclrRows(chunk) {
  const first = chunk.first;
  chunk.ids.forEach((id, place) => { rows.ids[first + place] = id; });
  rows.rank.set(numbers(chunk.rank, Int32Array), first);
  rows.percentile.set(numbers(chunk.percentile, Float32Array), first);
  rows.kind.set(numbers(chunk.kind, Int32Array), first);
  if (chunk.label) rows.label.set(numbers(chunk.label, Int32Array), first);
  rows.sizes.set(numbers(chunk.sizes, Uint16Array), 2 * first);
  if (chunk.map) rows.map.set(numbers(chunk.map, Uint16Array), 2 * first);
  if (chunk.files) chunk.files.forEach((file, place) => { rows.files[first + place] = file; });
  if (chunk.root !== undefined) chunk.ids.forEach((id, place) => { rows.files[first + place] = chunk.root + id; });
  if (chunk.since) rows.since.set(numbers(chunk.since, Int32Array), first);
  if (chunk.old) {
    const [which, far] = [numbers(chunk.old.which, Int32Array), numbers(chunk.old.far, Float32Array)];
    chunk.ids.forEach((id, place) => {
      rows.old[first + place] = Array.from({ length: chunk.old.each }, (_, number) => {
        const at = place * chunk.old.each + number;
        return { id: chunk.old.ids[which[at]], file: chunk.old.files[which[at]], distance: far[at] };
      });
    });
  }
  if (chunk.wholes) {
    const edges = numbers(chunk.wholes.edges, Float32Array);
    const which = numbers(chunk.wholes.which, Int32Array);
    which.forEach((file, place) => {
      rows.wholes[first + place] = { file: chunk.wholes.files[file], edges: edges.subarray(4 * place, 4 * place + 4) };
    });
  }
  chunk.scores.forEach((text, column) => rows.scores[column].set(numbers(text, Float32Array), first));
  if (chunk.why) {
    rows.why ??= new Array(meta.rows);
    chunk.why.forEach((text, place) => { rows.why[first + place] = text; });
  }
  rows.loaded += chunk.ids.length;
}

function remembered(make) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, make(key));
    return known.get(key);
  };
}

// Known values of a score in ascending order.
const risingValues = remembered((column) => rows.scores[column].filter((value) => !Number.isNaN(value)).sort());

// Rows sorted by a score, ties by rank, unknown values last.
const rowsBy = remembered((key) => {
  const [column, direction] = key.split(":");
  const values = rows.scores[Number(column)];
  const order = new Uint32Array(rows.count);
  for (let row = 0; row < rows.count; row += 1) order[row] = row;
  if (key === "0:down") return order; // rank order
  const sign = direction === "up" ? 1 : -1;
  return order.sort((a, b) => {
    const unknown = Number.isNaN(values[a]) - Number.isNaN(values[b]);
    return unknown || sign * (values[a] - values[b]) || a - b;
  });
});

const lowerIds = remembered(() => rows.ids.map((id) => id.toLowerCase()));

// Percentage of the known values of a score that are smaller than a value.
function percentSmaller(column, value) {
  const values = risingValues(column);
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return (100 * low) / values.length;
}

// Lists that are selected like a kind, by their number in place of a kind. Each has a specific order.
const [ODD, COPIES, NEXT, MARKED] = [-2, -3, -4, -5];
const odd = new Set(meta.odd);
const lists = new Map([
  [ODD, { name: "Odd ones out", rows: () => meta.odd }],
  [COPIES, { name: "Near-duplicates", rows: () => meta.duplicates.flat() }],
  [NEXT, { name: "To label next", rows: () => meta.next }],
  [MARKED, { name: "Marked", rows: () => marks.rows() }],
]);

// For each near-duplicate: its group, and whether it is the image to keep.
const copies = new Map(meta.duplicates.flatMap((group, number) => group.map((row, place) => [row, { number, kept: place === 0 }])));

// The rows to show for a state, in its order.
function shownRows(state) {
  const ranked = state.sort === 0 && !state.up;
  const list = lists.get(state.kind)?.rows();
  const own = list && ranked && !state.like; // the list's own order
  const order = own ? Uint32Array.from(list) : state.like ? state.like.order : rowsBy(`${state.sort}:${state.up ? "up" : "down"}`);
  const listed = list && !own ? new Set(list) : null;
  const kind = list ? null : state.kind;
  const values = rows.scores[state.sort];
  const text = state.text.toLowerCase();
  const ids = text ? lowerIds("") : null;
  const { label, low, high, area, since } = state;
  if (!listed && kind === null && label === null && since === null && low === null && high === null && !area && !text) return order;
  return order.filter((row) => (kind === null || rows.kind[row] === kind)
    && (!listed || listed.has(row))
    && (label === null || rows.label[row] === label)
    && (since === null || rows.since[row] >= since)
    && (low === null || values[row] >= low)
    && (high === null || values[row] <= high)
    && (!area || area[row])
    && (!text || ids[row].includes(text)));
}

// Times when images were added, latest first. Images of the first call are not new.
const arrivals = remembered(() => [...new Set(rows.since)].filter(Boolean).sort((a, b) => b - a));
const isNew = (row) => rows.since[row] > 0 && rows.since[row] === arrivals("")[0];
const moment = (seconds) => new Date(1000 * seconds).toLocaleString("sv").slice(0, 16);

// The kinds, rarest first; `examples` are rows, most typical first. Empty if there is only one kind.
const kinds = meta.kinds.map(([kind, size, separation, rare, examples]) => ({ kind, size, separation, rare, examples }));
const kindByNumber = new Map(kinds.map((entry) => [entry.kind, entry]));
const kindOf = (row) => kindByNumber.get(rows.kind[row]);

// Index of a row's thumbnail over all sheets; -1 if it has none. Examples have two: one next to other examples, and one in
// rank order.
const examplePlaces = new Map(meta.further.map((row, place) => [row, meta.ranked + place]));
function placeOf(row, asExample = false) {
  if (!asExample && row < meta.ranked) return row;
  return examplePlaces.get(row) ?? (row < meta.ranked ? row : -1);
}

// Readable names: characters that reverse, break or hide text are written as their codes. Joiners inside words and emoji
// are kept.
const HIDDEN = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const visible = (text) => text.replace(HIDDEN, (one) => {
  const code = one.codePointAt(0).toString(16);
  return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
});

const labelName = (label) => (label < 0 ? "" : meta.classes[label] ?? String(label));

const inWords = (count, noun = "image") => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// Rounded down, so that 99.96% does not become 100%.
const inPercent = (share) => (share > 0 && share < 0.1 ? "under 0.1%" : `${(Math.floor(share * 10 + 1e-6) / 10).toFixed(1)}%`);

function inDigits(value) {
  if (Number.isNaN(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? value.toLocaleString("en", { maximumSignificantDigits: 4 }) : value.toExponential(2);
}

// Explain a row's rank from the scores.
function whyPicked(row) {
  if (rows.why) return rows.why[row];
  const rarity = percentSmaller(0, rows.scores[0][row]);
  const parts = [`Its ${meta.scores[0].title.toLowerCase()} is higher than that of ${inPercent(rarity)} of ${inWords(rows.count)}.`];
  const also = meta.scores.slice(1).map(({ title }, place) => [title, percentSmaller(place + 1, rows.scores[place + 1][row])])
    .filter(([, share]) => share >= 95);
  if (also.length) parts.push(`It is also among the highest 5% by ${also.map(([title, share]) => `${title.toLowerCase()} (${inPercent(share)})`).join(", ")}.`);
  const entry = kindOf(row);
  if (entry) {
    const smaller = kinds.filter((other) => other.size < entry.size).length;
    parts.push(smaller === 0 ? `It belongs to the smallest of ${inWords(kinds.length, "kind")}, with ${inWords(entry.size)}.`
      : `It belongs to a kind of ${inWords(entry.size)}; ${smaller.toLocaleString("en")} of ${inWords(kinds.length, "kind")} ${smaller === 1 ? "is" : "are"} smaller.`);
  }
  if (odd.has(row)) parts.push("It is an odd one out.");
  return parts.join(" ");
}

function record(row) {
  const known = (value) => (Number.isNaN(value) ? null : Number(value.toPrecision(7)));
  const found = { id: rows.ids[row], rank: rows.rank[row], percentile: known(rows.percentile[row]) };
  found.kind = rows.kind[row] < 0 ? null : rows.kind[row];
  found.odd = odd.has(row);
  if (arrivals("").length) found.new = rows.since[row] ? moment(rows.since[row]) : null;
  if (meta.against) found.nearest_old = rows.old[row][0].id;
  if (meta.labeled) found.class = labelName(rows.label[row]) || null;
  Object.assign(found, { mark: MARKS[marks.of(row)] || null, label: marks.label(row) || null });
  meta.scores.forEach(({ name }, column) => { found[name] = known(rows.scores[column][row]); });
  return found;
}

// Put an apostrophe before text that a spreadsheet would treat as a formula, as in the files that sdclr writes.
const guarded = (text) => (/^'*[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text);
const unguarded = (text) => (/^'+[=+\-@\t\r]/.test(text) ? text.slice(1) : text);

function asCsv(records, names) {
  const cell = (value) => {
    const text = value === null ? "" : guarded(String(value));
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...records.map((one) => names.map((name) => one[name]))].map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}
