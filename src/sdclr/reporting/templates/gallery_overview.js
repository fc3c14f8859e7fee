// The top of the page: sizes of the kinds, odd images, near-duplicates, and images to label next.
const FIRST_STRIP = 48;
const FIRST_PAIRS = 24;

// Draw one column per kind; columns overlap if there are more kinds than pixels. Heights are logarithmic.
function drawChart() {
  const canvas = $("chart");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  const ratio = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const most = kinds.at(-1).size;
  const heightOf = (size) => (height - 14) * (Math.log10(size) + 0.15) / (Math.log10(most) + 0.15);
  const wide = Math.min(48, (width - CHART_LEFT) / kinds.length);
  pen.font = "10px system-ui, sans-serif";
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  for (let size = 1; size <= most; size *= 10) {
    const y = height - 4 - heightOf(size);
    pen.fillStyle = style.getPropertyValue("--rule");
    pen.fillRect(CHART_LEFT, y, width - CHART_LEFT, 1);
    pen.fillStyle = style.getPropertyValue("--muted");
    pen.fillText(size.toLocaleString("en", { notation: "compact" }), CHART_LEFT - 6, y);
  }
  kinds.forEach(({ size, rare }, place) => {
    pen.fillStyle = style.getPropertyValue(rare ? "--rare" : "--accent");
    const high = heightOf(size);
    pen.fillRect(CHART_LEFT + place * wide + (wide > 4 ? 1 : 0), height - 4 - high, Math.max(0.5, wide > 4 ? wide - 2 : wide), high);
  });
}

const CHART_LEFT = 34;
function kindAt(event) {
  const wide = Math.min(48, ($("chart").clientWidth - CHART_LEFT) / kinds.length);
  return kinds[Math.floor((event.offsetX - CHART_LEFT) / wide)];
}

function pairItem(group) {
  const pair = make("div", "pair");
  pair.append(...group.slice(0, 2).map(newThumb));
  if (group.length > 2) pair.append(make("span", "more", `+${(group.length - 2).toLocaleString("en")}`));
  return pair;
}

function listPanel(name, kind, items, label) {
  const list = lists.get(kind).rows();
  $(name).hidden = list.length === 0;
  $(`show-${name}`).textContent = `Show all ${list.length.toLocaleString("en")}`;
  $(`show-${name}`).addEventListener("click", () => showKind(kind));
  fillStrip($(`${name}-strip`), items, label);
}

function listOverview() {
  if (kinds.length) listKinds(FIRST);
  else fillStrip($("rarest-strip"), Array.from(rowsBy("0:down").slice(0, FIRST_STRIP), newThumb), "The rarest images");
  $("rarest-strip").hidden = kinds.length > 0;
  $("chart").hidden = kinds.length <= FIRST; // the rows are enough for so few
  $("chart").setAttribute("aria-label", `Sizes of ${inWords(kinds.length, "kind")}, the rarest at the left. The list below has the same numbers.`);
  $("kinds").hidden = rows.count === 0;
  listPanel("odd", ODD, meta.odd.slice(0, FIRST_STRIP).map(newThumb), "Odd images, the oddest first");
  listPanel("next", NEXT, meta.next.slice(0, FIRST_STRIP).map(newThumb), "Images to label next");
  listPanel("copies", COPIES, meta.duplicates.slice(0, FIRST_PAIRS).map(pairItem), "Groups of near-duplicates, the image to keep first");
  const surplus = meta.duplicates.flatMap((group) => group.slice(1));
  $("copies-note").textContent = `${inWords(meta.duplicates.length, "group")} of the same picture. ${inWords(surplus.length)} can go.`;
  $("drop-copies").addEventListener("click", () => {
    marks.set(surplus, DROP);
    say(`${inWords(surplus.length)} marked: drop. Ctrl+Z undoes.`);
  });
  listMap();
  const option = (text, value) => { $("kind").appendChild(make("option", "", text)).value = value; };
  option("All", "");
  for (const [kind, { name, rows: listed }] of lists) {
    if (kind === MARKED) option(name, kind);
    else if (listed().length) option(`${name} (${listed().length.toLocaleString("en")})`, kind);
  }
  $("since-field").hidden = arrivals("").length === 0;
  $("since").append(new Option("Any time", ""), ...arrivals("").map((seconds) => {
    const count = rows.since.reduce((sum, one) => sum + Number(one >= seconds), 0);
    return new Option(`${moment(seconds)} (${inWords(count)})`, seconds);
  }));
  for (const { kind, size } of kinds) option(`Kind ${kind} (${inWords(size)})`, kind);
  $("chart").addEventListener("click", (event) => { if (kindAt(event)) showKind(kindAt(event).kind); });
  $("chart").addEventListener("mousemove", (event) => {
    const found = kindAt(event);
    $("chart").title = found ? `Kind ${found.kind}: ${inWords(found.size)}${found.rare ? ", rare" : ""}` : "";
  });
  new ResizeObserver(drawChart).observe($("chart"));
}

function drawOverview() {
  drawChart();
  drawMapSoon();
}
