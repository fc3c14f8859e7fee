// Search by example: order the list by similarity to an image of the collection, or to another image.
const nonce = document.currentScript.nonce; // allows the page to add scripts of its folder
const index = { known: meta.search?.index ?? null, codes: null, filled: 0, factors: null, ready: null };
let asking = 0; // number of the latest query; results of earlier ones are discarded

// Scripts of the index call this.
function sdclrCodes({ first, codes }) {
  const part = numbers(codes, Int8Array);
  index.codes.set(part, first * index.known.dimensions);
  index.filled += part.length;
  const { dimensions, scale, mean, rest } = index.known;
  for (let at = 0, row = first; at < part.length; row += 1) {
    let squared = rest;
    for (let place = 0; place < dimensions; place += 1, at += 1) {
      const value = part[at] * scale[place] + mean[place];
      squared += value * value;
    }
    index.factors[row] = Math.max(1e-12, squared) ** -0.25; // 1 / sqrt(length)
  }
}

function addScript(name) {
  return new Promise((resolve, reject) => {
    const script = make("script");
    script.nonce = nonce;
    script.src = `${meta.search.files}/${name}`;
    script.onload = resolve;
    script.onerror = () => reject(new Error("The search could not be loaded. Keep the folder that ends in _files next to this page."));
    document.head.append(script);
  });
}

async function addScripts(names, tell) {
  for (const [place, name] of names.entries()) {
    tell(place / names.length);
    await addScript(name);
  }
}

// Load the index at the first search. Row i has the components codes * scale + mean.
function loadIndex(tell) {
  index.ready ??= (async () => {
    const { known } = index;
    known.scale = numbers(known.scale, Float32Array);
    known.mean = numbers(known.mean, Float32Array);
    index.codes = new Int8Array(rows.count * known.dimensions);
    index.factors = new Float64Array(rows.count);
    await addScripts(known.scripts, tell);
    if (index.filled !== index.codes.length) throw new Error("The search is incomplete. Write the page again.");
  })();
  return index.ready;
}

const componentsAt = (row) => {
  const { dimensions, scale, mean } = index.known;
  return Float64Array.from(scale, (step, place) => index.codes[row * dimensions + place] * step + mean[place]);
};
const lengthOf = (components) => Math.sqrt(Math.max(1e-12, components.reduce((sum, value) => sum + value * value, index.known.rest)));

// The similarity of all rows to a query, given by its components.
function similarities(query) {
  const { dimensions, scale, mean, rest } = index.known;
  const { codes, factors } = index;
  const weights = query.map((value, place) => value * scale[place]);
  const constant = query.reduce((sum, value, place) => sum + value * mean[place], rest);
  const own = lengthOf(query) ** 1.5;
  const found = new Float32Array(rows.count);
  for (let row = 0, at = 0; row < rows.count; row += 1) {
    let sum = constant;
    for (let place = 0; place < dimensions; place += 1, at += 1) sum += weights[place] * codes[at];
    found[row] = Math.min(1, (sum * factors[row]) / own);
  }
  return found;
}

// Rows, most similar first, ties by rank. Sorting plain numbers is much faster than with a comparison function. Each number
// encodes a similarity, in steps of 2^-24, and its row.
function bySimilarity(found, first) {
  const keys = new Float64Array(found.length);
  for (let row = 0; row < found.length; row += 1) keys[row] = Math.round((1 - found[row]) * 2 ** 24) * 2 ** 27 + row;
  if (first !== null) keys[first] = first - 2 ** 27;
  return Uint32Array.from(keys.sort(), (key) => key - Math.floor(key / 2 ** 27) * 2 ** 27);
}

function tellSearch(text, problem = false) {
  $("like-status").textContent = text;
  $("like-status").classList.toggle("problem", problem);
}

// Show the list in the order of similarity to a query.
function showLike(components, { row = null, name, picture = null }) {
  const found = similarities(components);
  state.like = { row, name, picture, components, found, order: bySimilarity(found, row) };
  tellSearch("");
  update();
  toList();
  $("grid").focus({ preventScroll: true });
  say(`Ordered by similarity to ${name}`);
}

// Run one query at a time, and show an error in one line.
async function ask(find) {
  asking += 1;
  const mine = asking;
  try {
    await find((text) => { if (mine === asking) tellSearch(text); }, () => mine === asking);
  } catch (error) {
    if (mine === asking) tellSearch(error.message, true);
  }
}

const askRow = (row) => ask(async (tell, wanted) => {
  await loadIndex((share) => tell(`Loading the search: ${inPercent(100 * share)}`));
  if (wanted()) showLike(componentsAt(row), { row, name: visible(rows.ids[row]) });
});

const askFile = (file) => ask(async (tell, wanted) => {
  if (!meta.search.encoder) throw new Error("This page cannot search by a file. Choose an image in the list, or run: sdclr neighbors IMAGES --queries FILE");
  const name = visible(file.name) || "the pasted image";
  const image = await pixelsOf(file, name);
  await loadIndex((share) => tell(`Loading the search: ${inPercent(100 * share)}`));
  if (!encoder.layers) await addScripts(meta.search.encoder.scripts, (share) => tell(`Loading the encoder: ${inPercent(100 * share)}`));
  const components = await componentsOf(image, (share) => tell(`Encoding ${name}: ${inPercent(100 * share)}`));
  if (wanted()) showLike(components, { name, picture: image.small });
});

// Width, height and RGBA bytes of an image file, upright and on white, like the collection's images.
async function pixelsOf(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`This browser cannot read ${name} as an image.`);
  }
  const drawn = (width, height) => {
    const canvas = make("canvas");
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    return { canvas, context };
  };
  const { width, height } = bitmap;
  const scale = 40 / Math.max(width, height);
  try {
    const { data } = drawn(width, height).context.getImageData(0, 0, width, height);
    const small = drawn(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))).canvas;
    return { width, height, data, small };
  } catch {
    throw new Error(`${name} has ${width} × ${height} pixels, too many for this browser.`);
  } finally {
    bitmap.close();
  }
}

// Functions for the rest of the page.
const likeText = (row) => state.like.found[row].toFixed(3);
function clearLike() {
  asking += 1;
  tellSearch("");
  Object.assign(state, { like: null });
  update();
}
function drawLike() {
  const chip = $("like-chip");
  if (!chip) return;
  chip.hidden = !state.like;
  if (!state.like) return;
  const { row, name, picture } = state.like;
  const box = make("span", "box");
  if (picture) box.append(picture);
  else paint(box, row, 24);
  const clear = button("×", clearLike);
  clear.title = "Back to the other order";
  clear.setAttribute("aria-label", `Stop ordering by similarity to ${name}`);
  chip.replaceChildren(box, make("span", "name", name.slice(name.lastIndexOf("/") + 1)), clear);
  chip.title = name;
}
const likeButton = (row) => (index.known ? [Object.assign(button("More like this", () => askRow(row)), { title: "Order the list by similarity (m)" })] : []);

const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
function listenForLike() {
  if (!meta.search || !$("like-field")) return;
  $("like-note").textContent = index.known ? meta.search.about : meta.search.why;
  $("like-by-file").hidden = !meta.search.encoder;
  $("like-by-row").hidden = !index.known;
  if (!index.known) return;
  $("like-choose").addEventListener("click", () => $("like-file").click());
  $("like-file").addEventListener("change", () => {
    const [file] = $("like-file").files;
    if (file) askFile(file);
    $("like-file").value = ""; // allows choosing the same file again
  });
  document.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    $("like-field").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("like-field").classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    $("like-field").classList.remove("over");
    askFile(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    askFile(file);
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select, textarea") || document.querySelector("dialog[open]");
    if (event.key !== "m" || typing || event.ctrlKey || event.metaKey || event.altKey || state.active === null) return;
    event.preventDefault();
    askRow(state.active);
  });
}
