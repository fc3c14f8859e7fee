// The top of the page: the kinds, from the rarest on, and the odd ones out.
const MORE = 100; // kinds that each click adds
const THUMB = 72;
let listed = 0;

// Pictures are painted when they come in sight.
const inSight = new IntersectionObserver((changes) => {
  for (const { isIntersecting, target } of changes) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    for (const thumb of target.querySelectorAll(".thumb")) paint(thumb, Number(thumb.dataset.row), THUMB, true);
  }
}, { rootMargin: "200px" });

// Of a strip, one image takes part in the tab order; the arrow keys lead to the others.
function fillStrip(strip, examples, name) {
  strip.setAttribute("role", "group");
  strip.setAttribute("aria-label", name);
  strip.append(...examples.map((row, place) => {
    const thumb = make("button", "box thumb");
    thumb.type = "button";
    thumb.tabIndex = place ? -1 : 0;
    thumb.dataset.row = row;
    thumb.title = rows.ids[row];
    thumb.setAttribute("aria-label", `${rows.ids[row]}, rank ${rows.rank[row]}`);
    return thumb;
  }));
  inSight.observe(strip);
}

function kindItem({ kind, size, separation, rare, examples }) {
  const [item, about, name, share, links, strip] = [make("li", "kind"), make("div", "about"), make("h3"), make("p"), make("p"), make("div", "strip")];
  const part = (100 * size) / rows.count;
  item.dataset.kind = kind;
  name.append(make("span", "", inWords(size)), ...(rare ? [" ", make("span", "badge", "rare")] : []));
  share.append(`Kind ${kind} · ${inPercent(part)} of all images`);
  const bar = make("div", "share");
  bar.append(make("i"));
  bar.firstChild.style.width = `${part}%`;
  links.append("Separation ", make("b", "", inPercent(100 * separation)));
  links.className = "separation";
  links.title = `Each image is linked to its nearest neighbors. Of the links of this kind, ${inPercent(100 * separation)} stay inside it. At 100%, no image of the kind is near an image of another kind.`;
  about.append(name, share, bar, links);
  fillStrip(strip, examples, `Examples of kind ${kind}, the most typical first`);
  const all = button("Show all", () => showKind(kind));
  all.setAttribute("aria-label", `Show all ${inWords(size)} of kind ${kind} in the list`);
  item.append(about, strip, all);
  return item;
}

function listKinds(count) {
  const first = listed;
  listed = Math.min(kinds.length, listed + count);
  $("kind-list").append(...kinds.slice(first, listed).map(kindItem));
  const left = kinds.length - listed;
  $("more-kinds").hidden = left === 0;
  $("more-kinds").textContent = `Show ${Math.min(MORE, left).toLocaleString("en")} more of ${left.toLocaleString("en")} kinds`;
  return $("kind-list").children[first];
}

function listOverview() {
  if (kinds.length) listKinds(meta.firstKinds);
  $("kinds").hidden = rows.count === 0;
  $("odd").hidden = odd.size === 0;
  $("show-odd").textContent = `Show all ${odd.size.toLocaleString("en")}`;
  fillStrip($("odd-strip"), meta.odd.slice(0, meta.firstOdd), "Odd images, the oddest first");
  $("kind-field").hidden = kinds.length === 0 && odd.size === 0;
  const option = (text, value) => { $("kind").appendChild(make("option", "", text)).value = value; };
  option("All", "");
  if (odd.size) option(`Odd ones out (${odd.size.toLocaleString("en")})`, ODD);
  for (const { kind, size } of kinds) option(`Kind ${kind} (${inWords(size)})`, kind);
}

// The images of one kind, or the odd ones, in the list.
function showKind(kind) {
  Object.assign(state, { text: "", kind, label: null, low: null, high: null, like: null });
  update();
  toList();
  $("grid").focus({ preventScroll: true });
}

// Arrow keys in the strips: along one, or to the one above or below.
function moveThumb(thumb, key) {
  const inLine = (strip) => [...strip.children].filter((one) => one.offsetTop < strip.offsetTop + strip.clientHeight);
  const strip = thumb.parentElement;
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
  for (const one of target.parentElement.children) one.tabIndex = one === target ? 0 : -1;
  target.focus();
}
