// The KV map: every page of each worker, and the prefixes that its pages hold.

import { asTable, byId, h, legend, redraw, roving, s, table } from "./dom.js";
import { ask } from "./server.js";
import { count, percent, plural, short } from "./words.js";

const STATES = [
  ["f", "free", "free"],
  ["c", "cached", "cached: reusable, read by nobody"],
  ["p", "private", "private to one sequence"],
  ["s", "shared", "shared by several sequences"],
];
const ROW = 30;  // of the icicle
const MAX_DEPTH = 12;

export class PagesPane {
  constructor(pane) {
    this.pane = pane;
    this.chosen = null;
  }

  async load() {
    const reply = await ask("/v1/cache/map");
    redraw(this.pane, this.#legend(), ...reply.workers.map((worker) => this.#worker(worker)));
    for (const canvas of this.pane.querySelectorAll("canvas")) paint(canvas);
  }

  #legend() {
    return legend("What the squares mean", [
      ...STATES.map(([, name, meaning]) => [s("rect", { class: `page-${name}`, x: 5, y: 1.5, width: 11, height: 11, rx: 2 }), meaning]),
      [[s("rect", { class: "page-cached", x: 5, y: 1.5, width: 11, height: 11, rx: 2 }), s("circle", { class: "pin", cx: 10.5, cy: 7, r: 3 })], "pinned"],
    ]);
  }

  #worker(worker) {
    const counts = Object.fromEntries(STATES.map(([letter, name]) => [name, [...worker.cells].filter((c) => c.toLowerCase() === letter).length]));
    const pinned = [...worker.cells].filter((c) => c !== c.toLowerCase()).length;
    const unit = worker.pages_per_cell === 1 ? "page" : `group of ${worker.pages_per_cell} pages`;
    const words = `${STATES.map(([, name]) => `${count(counts[name])} ${name}`).join(", ")}, ${count(pinned)} pinned`;
    const canvas = h("canvas", { class: "grid", role: "img", "aria-label": `Pages of worker ${worker.worker}: ${words}` });
    canvas.dataset.cells = worker.cells;
    const detail = h("div", { class: "detail", role: "status" });
    return h("section", { class: "worker", "aria-label": `Worker ${worker.worker}` },
      h("h3", {}, `Worker ${worker.worker} `,
        h("span", { class: "quiet" }, `${plural(worker.cells.length, unit)}, ${plural(worker.page_size, "token")} a page: ${words}`)),
      canvas,
      h("h4", {}, "Prefixes ", h("span", { class: "quiet" }, "width: pages of a prefix and of all that begin with it")),
      legend("What the bars' colours mean", [
        [s("rect", { class: "bar-common", x: 0, y: 1, width: 22, height: 12, rx: 2 }), "several prompts begin so"],
        [s("rect", { class: "page-cached", x: 0, y: 1, width: 22, height: 12, rx: 2 }), "one prompt goes on so"],
        [s("rect", { class: "bar-read", x: 0, y: 1, width: 22, height: 12, rx: 2 }), "being read now"],
        [s("rect", { class: "pin-bar", x: 0, y: 8, width: 22, height: 4, rx: 2 }), "pinned"],
      ]),
      worker.prefixes.length ? this.#icicle(worker, detail) : h("p", { class: "quiet" }, "No prefix is kept."),
      worker.folded ? h("p", { class: "quiet" }, `${plural(worker.folded, "page")} of smaller prefixes not drawn.`) : null,
      detail,
      asTable(`pages-table-${worker.worker}`, () => this.#table(worker, counts, pinned)));
  }

  #icicle(worker, detail) {
    const width = Math.max(this.pane.clientWidth - 26, 600);
    const total = worker.prefixes.filter((one) => one.parent === null).reduce((sum, one) => sum + one.pages + one.below, 0);
    const used = new Map();  // where the next child of a stretch begins
    const places = [];
    worker.prefixes.forEach((prefix, i) => {
      const parent = prefix.parent === null ? { x: 0, depth: -1 } : places[prefix.parent];
      const x = used.get(prefix.parent) ?? parent.x;
      const wide = ((prefix.pages + prefix.below) * width) / total;
      used.set(prefix.parent, x + wide);
      places[i] = { x, wide, depth: parent.depth + 1 };
    });
    const shown = worker.prefixes.map((prefix, i) => ({ prefix, i, ...places[i] }))
      .filter((one) => one.depth < MAX_DEPTH && one.wide >= 0.8)
      .sort((a, b) => a.depth - b.depth || a.x - b.x);
    const picture = s("svg", {
      class: "icicle", role: "group", "aria-label": `Prefix tree of worker ${worker.worker}`,
      width, height: (shown.at(-1).depth + 1) * ROW + 2,
    });
    const labels = labelPrefixes(worker.prefixes);
    const numBehind = worker.prefixes.map(() => 0);
    for (const { parent } of worker.prefixes) if (parent !== null) numBehind[parent] += 1;
    const marks = shown.map(({ prefix, i, x, wide, depth: level }, place) => {
      const reading = prefix.readers ? "read" : numBehind[i] ? "common" : "idle";
      const mark = s("g", {
        class: `stretch ${reading} ${prefix.text === null ? "hidden-text" : ""}`, role: "button", "aria-label": describe(prefix, worker),
      }, s("rect", { x: x + 0.4, y: level * ROW + 1, width: Math.max(wide - 1.5, 0.7), height: ROW - 3, rx: Math.min(wide / 4, 3) }));
      mark.dataset.key = `${worker.worker}-${level}-${place}`;
      if (prefix.pinned) mark.append(s("rect", { class: "pin-bar", x: x + 0.75, y: (level + 1) * ROW - 6, width: Math.max(((wide - 1.5) * prefix.pinned) / (prefix.pages + prefix.below), 2), height: 4, rx: 2 }));
      const letters = Math.floor((wide - 10) / 6.8);
      if (letters >= 4) {
        mark.append(s("text", { x: x + 6, y: level * ROW + 18.5 }, short(labels[i].trim(), letters)));
      }
      picture.append(mark);
      return mark;
    });
    const choose = (place) => {
      this.chosen = shown[place].prefix;
      marks.forEach((mark, i) => mark.classList.toggle("chosen", i === place));
      const { text } = this.chosen;
      detail.replaceChildren(
        h("p", {}, describe(this.chosen, worker)),
        text === null ? null : h("pre", { class: "prompt" }, text),
      );
    };
    roving(marks, choose);
    const again = shown.findIndex(({ prefix }) => this.chosen && prefix.text === this.chosen.text && prefix.pages === this.chosen.pages);
    if (this.chosen && again >= 0) choose(again);
    return h("div", { class: "picture" }, picture);
  }

  #table(worker, counts, pinned) {
    const cells = worker.cells.length;
    const states = table(`Pages of worker ${worker.worker}`, ["State", "Pages", "Share"],
      [...STATES.map(([, name]) => [name, count(counts[name]), percent(counts[name], cells)]), ["pinned, of those", count(pinned), percent(pinned, cells)]],
      { numeric: [1, 2] });
    const depths = [];
    const rows = worker.prefixes.map((prefix, i) => {
      depths[i] = prefix.parent === null ? 1 : depths[prefix.parent] + 1;
      return [String(depths[i]), prefix.text === null ? "another key's" : short(prefix.text, 90), count(prefix.pages * worker.page_size),
        count(prefix.below * worker.page_size), count(prefix.readers), count(prefix.pinned)];
    });
    const tree = table(`Prefixes of worker ${worker.worker}, the largest first`,
      ["Level", "Begins", "Tokens", "Tokens behind it", "Readers", "Pinned pages"], rows, { numeric: [0, 2, 3, 4, 5] });
    return h("div", {}, states, tree);
  }
}

/** How each stretch goes on where its siblings part: what they all begin with says nothing. */
function labelPrefixes(prefixes) {
  const families = new Map();
  for (const { parent, text } of prefixes) {
    if (text !== null) families.set(parent, [...(families.get(parent) ?? []), text]);
  }
  const common = new Map([...families].map(([parent, texts]) => {
    const first = texts[0];
    let length = first.length;
    for (const text of texts) {
      while (!text.startsWith(first.slice(0, length))) length -= 1;
    }
    const wordStart = first.slice(0, length).search(/\S*$/);
    return [parent, texts.length > 1 ? wordStart : 0];
  }));
  return prefixes.map(({ parent, text, pages }) => {
    if (text === null) return `another key's, ${plural(pages, "page")}`;
    const skipped = common.get(parent);
    return skipped ? `…${text.slice(skipped)}` : text;
  });
}

function describe(prefix, worker) {
  const pages = `${plural(prefix.pages, "page")} (${plural(prefix.pages * worker.page_size, "token")})`;
  const parts = [pages, prefix.below ? `${plural(prefix.below, "page")} behind it` : "nothing behind it"];
  parts.push(prefix.readers ? `read by ${plural(prefix.readers, "sequence")}` : "read by nobody now");
  if (prefix.pinned) parts.push(`${count(prefix.pinned)} pinned`);
  return `${prefix.text === null ? "A prefix of another key" : "A prefix"}: ${parts.join(", ")}`;
}

/** Draws the squares in the colours that the style sheet has for them. */
function paint(canvas) {
  const cells = canvas.dataset.cells;
  const wide = canvas.parentElement.clientWidth;
  const side = cells.length <= 1500 ? 14 : cells.length <= 4200 ? 10 : 7;
  const columns = Math.max(Math.floor(wide / side), 1);
  const scale = window.devicePixelRatio || 1;
  const height = Math.ceil(cells.length / columns) * side;
  canvas.width = columns * side * scale;
  canvas.height = height * scale;
  canvas.style.width = `${columns * side}px`;
  canvas.style.height = `${height}px`;
  const style = getComputedStyle(canvas);
  const colour = Object.fromEntries(STATES.map(([letter, name]) => [letter, style.getPropertyValue(`--page-${name}`)]));
  const pin = style.getPropertyValue("--pin");
  const edge = style.getPropertyValue("--page-edge");
  const draw = canvas.getContext("2d");
  draw.scale(scale, scale);
  for (let i = 0; i < cells.length; i += 1) {
    const letter = cells[i].toLowerCase();
    const x = (i % columns) * side;
    const y = Math.floor(i / columns) * side;
    draw.fillStyle = colour[letter];
    draw.fillRect(x + 1, y + 1, side - 2, side - 2);
    if (letter === "f") {
      draw.strokeStyle = edge;
      draw.strokeRect(x + 1.5, y + 1.5, side - 3, side - 3);
    }
    if (letter !== cells[i]) {
      draw.fillStyle = pin;
      draw.beginPath();
      draw.arc(x + side / 2, y + side / 2, side / 4.5, 0, 7);
      draw.fill();
    }
  }
}

export const pagesPane = () => new PagesPane(byId("pane-pages"));
