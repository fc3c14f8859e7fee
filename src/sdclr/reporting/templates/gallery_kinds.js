// The kinds at the top of the page, rarest first, and strips of images.
const FIRST = 5; // number of kinds that fit on the first screen
const MORE = 100; // number of kinds that each click adds
const THUMB = 58;
let listed = 0;

// Pictures are painted when they become visible.
const inSight = new IntersectionObserver((changes) => {
  for (const { isIntersecting, target } of changes) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    for (const thumb of target.querySelectorAll(".thumb")) paint(thumb, Number(thumb.dataset.row), THUMB, true);
  }
}, { rootMargin: "200px" });

function newThumb(row) {
  const thumb = make("button", "box thumb");
  thumb.type = "button";
  thumb.tabIndex = -1;
  thumb.dataset.row = row;
  thumb.title = visible(rows.ids[row]);
  thumb.setAttribute("aria-label", `${thumb.title}, rank ${rows.rank[row]}`);
  return thumb;
}

// One image of a strip is in the tab order. The arrow keys reach the others.
function fillStrip(strip, items, name) {
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", name);
  strip.append(...items);
  const first = strip.querySelector(".thumb");
  if (first) first.tabIndex = 0;
  inSight.observe(strip);
}

function kindItem({ kind, size, separation, rare, examples }) {
  const [item, about, name, links, bar, strip] = [make("li", "kind"), make("div", "about"), make("h3"), make("p"), make("div", "share"), make("div", "strip")];
  const part = (100 * size) / meta.rankedImages;
  item.dataset.kind = kind;
  const all = button(inWords(size), () => showKind(kind));
  all.title = "Show all of them in the list";
  all.setAttribute("aria-label", `Show all ${inWords(size)} of kind ${kind} in the list`);
  const dot = make("i", "dot"); // its color on the map
  dot.style.background = colorOfKind(kind);
  name.append(...(meta.map ? [dot] : []), all, ...(rare ? [" ", make("span", "badge", meta.against ? "new kind" : "rare")] : []));
  links.append(`Kind ${kind} · ${inPercent(part).replace("under ", "<")} · separation ${inPercent(100 * separation)}`);
  links.title = `${inPercent(part)} of all images. Each image is linked to its nearest neighbors. Of the links of this kind, ${inPercent(100 * separation)} stay inside it. At 100%, no image of the kind is near an image of another kind.`;
  bar.append(make("i"));
  bar.firstChild.style.width = `${part}%`;
  about.append(name, links, bar);
  fillStrip(strip, examples.map(newThumb), `Examples of kind ${kind}, the most typical first`);
  item.append(about, strip);
  return item;
}

function listKinds(count) {
  const first = listed;
  listed = Math.min(kinds.length, listed + count);
  $("kind-list").classList.toggle("few", kinds.length < 4);
  $("kind-list").append(...kinds.slice(first, listed).map(kindItem));
  const left = kinds.length - listed;
  $("more-kinds").hidden = left === 0;
  $("more-kinds").textContent = `Show ${Math.min(MORE, left).toLocaleString("en")} more of ${inWords(kinds.length, "kind")}`;
  return $("kind-list").children[first];
}

// Show the images of one kind, or of a list such as the odd images, in the list below.
function showKind(kind) {
  Object.assign(state, UNFILTERED, { kind });
  if (lists.has(kind)) Object.assign(state, { sort: 0, up: false });
  update();
  toList();
  $("grid").focus({ preventScroll: true });
}

// Arrow keys move along a strip, or to the strip above or below.
function moveThumb(thumb, key) {
  const inLine = (strip) => [...strip.querySelectorAll(".thumb")].filter((one) => one.offsetTop < strip.offsetTop + strip.clientHeight);
  const strip = thumb.closest(".strip");
  const line = inLine(strip);
  const place = line.indexOf(thumb);
  const aside = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: line.length - 1 }[key];
  let target = line[aside];
  if (aside === undefined) {
    const strips = [...document.querySelectorAll(".strip")].filter((one) => one.offsetParent && one.firstChild);
    const next = strips[strips.indexOf(strip) + (key === "ArrowUp" ? -1 : 1)];
    const others = next ? inLine(next) : [];
    target = others[Math.min(place, others.length - 1)];
  }
  if (!target) return;
  for (const one of target.closest(".strip").querySelectorAll(".thumb")) one.tabIndex = one === target ? 0 : -1;
  target.focus();
}
