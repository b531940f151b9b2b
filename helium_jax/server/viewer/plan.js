// The plan pane: the DAG of a run's plan, coloured by what its operators found in the KV store.

import { asTable, byId, h, legend, redraw, roving, s, table } from "./dom.js";
import { curve, LEAF, layOut, SMALL } from "./layers.js";
import { showPrompts } from "./prompt.js";
import { ask } from "./server.js";
import { count, percent, plural, short } from "./words.js";

const SHADES = 5;  // of the share of prompt tokens that came from KV
const MARGIN = 18;

const isCall = (node) => node.type.startsWith("llm.");
const isGone = (node) => node.state === "merged" || node.state === "pruned";

export class PlanPane {
  constructor(pane) {
    this.pane = pane;
    this.graph = null;
    this.chosen = null;
  }

  /** Shows another run, or the same one anew once it is over. */
  async load(watch) {
    const isSame = this.watch?.run.id === watch.run.id;
    this.watch = watch;
    if (!isSame) this.chosen = null;
    const graph = await ask(`/v1/runs/${watch.run.id}/graph`);
    if (this.watch !== watch) return;
    const isDrawn = isSame && JSON.stringify(graph) === JSON.stringify(this.graph);
    this.graph = graph;
    if (isDrawn) this.update();
    else this.#draw();
  }

  /** Colours the picture by what is known now. */
  update() {
    if (!this.graph || this.graph.run_id !== this.watch.run.id) return;
    for (const node of this.graph.nodes) this.#dress(node);
  }

  #figures(node) {
    const live = this.watch.operators.get(node.name);
    if (!live || this.watch.cost) return node;
    return {
      ...node, done: live.done ?? 0, failed: live.failed ?? 0, calls: live.calls ?? 0,
      saved: live.saved_calls ?? 0, cached: live.cached_calls ?? 0,
      prompt_tokens: live.prompt_tokens ?? 0, kv_cached: live.kv_cached ?? 0,
    };
  }

  #draw() {
    const { nodes, edges } = this.graph;
    const sizeOf = (node) => (isCall(node) || isGone(node) ? LEAF : SMALL);
    const { width, height, boxes, paths } = layOut(nodes, edges, sizeOf);
    const picture = s("svg", {
      class: "dag", role: "group", "aria-label": "Operators of the plan, from inputs to outputs",
      viewBox: `${-MARGIN} ${-MARGIN} ${width + 2 * MARGIN} ${height + 2 * MARGIN}`,
      width: width + 2 * MARGIN, height: height + 2 * MARGIN,
    }, s("defs", {}, s("marker", {
      id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto",
    }, s("path", { d: "M0,0.5 L8,4 L0,7.5 z", class: "arrow" }))));
    picture.style.minWidth = `${0.6 * (width + 2 * MARGIN)}px`;
    // Bodies first, so that what they hold lies above them.
    const marks = new Map();
    for (const box of boxes.filter((one) => one.hasBody)) picture.append(this.#box(box, marks));
    for (const { edge, points } of paths) {
      picture.append(s("path", {
        d: curve(points), class: edge.gone ? "edge gone" : "edge", "marker-end": "url(#arrow)",
      }));
    }
    for (const box of boxes.filter((one) => !one.hasBody)) picture.append(this.#box(box, marks));
    this.marks = marks;
    const inOrder = [...boxes].sort((a, b) => isGone(a.node) - isGone(b.node) || a.x - b.x || a.y - b.y);
    roving(inOrder.map((box) => marks.get(box.node.name).group), (i) => this.#choose(inOrder[i].node));
    this.detail = h("section", { class: "detail", "aria-label": "Chosen operator" });
    redraw(
      this.pane,
      this.#legend(),
      h("div", { class: "picture" }, picture),
      asTable("plan-table", () => this.#table()),
      this.detail,
    );
    this.update();
    const first = this.chosen ?? nodes.find(isCall)?.name;
    const node = nodes.find((one) => one.name === first);
    if (node) this.#choose(node);
  }

  #box({ node, x, y, width, height, hasBody }, marks) {
    const isSmall = height === SMALL.height;
    const radius = isSmall ? height / 2 : 9;
    const title = s("text", { class: "title", x: x + 12, y: y + (isSmall ? 21 : 22) });
    const line = s("text", { class: "line", x: x + 12, y: y + 38 });
    const share = s("text", { class: "line", x: x + 12, y: y + 53 });
    title.append(short(node.name.replace(/^output /, ""), isSmall ? 15 : 22));
    const group = s("g", { class: `node ${isSmall ? "small" : ""} ${hasBody ? "body" : ""}`, role: "button" },
      s("rect", { class: "halo", x: x - 5, y: y - 5, width: width + 10, height: height + 10, rx: radius + 4 }),
      s("rect", { class: "ring", x: x - 3.5, y: y - 3.5, width: width + 7, height: height + 7, rx: radius + 3 }),
      s("rect", { class: "shape", x, y, width, height, rx: radius }),
      title, isSmall ? null : line, isSmall ? null : share);
    group.dataset.key = node.name;
    marks.set(node.name, { group, line, share });
    return group;
  }

  #dress(node) {
    const { group, line, share } = this.marks.get(node.name);
    const did = this.#figures(node);
    const total = this.watch.run.rows.total;
    const hasCalls = did.calls > 0 && did.prompt_tokens > 0;
    const isServed = node.state === "fetched" || did.cached > 0;
    group.classList.toggle("gone", isGone(node));
    group.classList.toggle("served", isServed);
    group.classList.toggle("failing", did.failed > 0);
    group.classList.toggle("chosen", this.chosen === node.name);
    const shade = hasCalls ? Math.min(Math.floor((SHADES * did.kv_cached) / did.prompt_tokens), SHADES - 1) : null;
    if (shade === null) delete group.dataset.shade;
    else group.dataset.shade = String(shade);
    const values = did.failed ? `${count(did.done)} done, ${count(did.failed)} failed` : `${count(did.done)} of ${plural(total, "row")}`;
    if (isGone(node)) {
      line.textContent = node.into ? `merged into ${short(node.into, 14)}` : "pruned";
      share.textContent = "";
    } else if (isCall(node)) {
      line.textContent = node.state === "fetched" ? "all from the output cache" : values;
      const parts = [];
      if (hasCalls) parts.push(`${percent(did.kv_cached, did.prompt_tokens)} from KV`);
      if (did.cached) parts.push(`${count(did.cached)} cached`);
      share.textContent = parts.join(" · ");
    } else {
      line.textContent = node.type;
      share.textContent = "";
    }
    group.setAttribute("aria-label", [
      node.name, node.type, line.textContent, share.textContent, this.chosen === node.name ? "chosen" : "",
    ].filter(Boolean).join(", "));
  }

  #choose(node) {
    const before = this.graph.nodes.find((one) => one.name === this.chosen);
    this.chosen = node.name;
    if (before) this.#dress(before);
    this.#dress(node);
    const prompts = h("div", {});
    this.detail.replaceChildren(
      h("h3", {}, node.name.replace(/^output /, "Output "), " ", h("span", { class: "quiet" }, node.type)),
      node.lines.length ? h("pre", { class: "explain", tabindex: "0", "aria-label": "EXPLAIN" }, node.lines.join("\n")) : null,
      prompts,
    );
    if (isCall(node) && !isGone(node)) showPrompts(prompts, this.watch.run.id, node.name);
  }

  #legend() {
    const shades = Array.from({ length: SHADES }, (_, i) =>
      s("rect", { class: `shade-${i}`, x: i * 4.4, y: 1, width: 4.4, height: 12 }));
    return legend("What the picture's colours mean", [
      [shades, "prompt tokens from KV: none to all"],
      [s("rect", { class: "key-ring", x: 2, y: 2, width: 18, height: 10, rx: 3 }), "answers from the output cache"],
      [s("rect", { class: "key-gone", x: 2, y: 2, width: 18, height: 10, rx: 3 }), "merged or pruned"],
    ]);
  }

  #table() {
    const headings = ["Operator", "Type", "State", "Values", "Failed", "Calls", "Prompt tokens", "From KV", "Equal calls", "Output cache"];
    const rows = this.graph.nodes.map((node) => {
      const did = this.#figures(node);
      const state = node.into ? `merged into ${node.into}` : node.state;
      return [node.name, node.type, state, count(did.done), count(did.failed), count(did.calls),
        count(did.prompt_tokens), percent(did.kv_cached, did.prompt_tokens), count(did.saved), count(did.cached)];
    });
    return table("Operators of the plan", headings, rows, { numeric: [3, 4, 5, 6, 7, 8, 9] });
  }
}

export const planPane = () => new PlanPane(byId("pane-plan"));
