// The list of runs, the head of the chosen one, and its rows.

import { byId, h, redraw, table } from "./dom.js";
import { ask } from "./server.js";
import { clock, count, FINAL, percent, plural, saved, seconds, stateWords } from "./words.js";

/** The side bar: every run of this key, updated in place so that the focus stays where it is. */
export class RunList {
  constructor(list, empty) {
    this.list = list;
    this.empty = empty;
    this.items = new Map();
  }

  show(runs, chosen, pane) {
    this.empty.hidden = runs.length > 0;
    const ids = new Set(runs.map((run) => run.id));
    for (const [id, item] of this.items) {
      if (!ids.has(id)) { item.remove(); this.items.delete(id); }
    }
    let before = null;
    for (const run of runs) {
      const item = this.items.get(run.id) ?? this.#make(run);
      const place = before ? before.nextSibling : this.list.firstChild;
      if (place !== item) this.list.insertBefore(item, place);
      this.#update(item, run, run.id === chosen, pane);
      before = item;
    }
  }

  /** Shows what is known of the chosen run before the list is asked again. */
  update(watch, pane) {
    const item = this.items.get(watch.run.id);
    if (item) this.#update(item, { ...watch.run, rows: watch.counts }, true, pane);
  }

  #make(run) {
    const item = h("li", {}, h("a", {},
      h("span", { class: "name" }), h("span", { class: "state" }),
      h("progress", { max: 1, "aria-label": "Rows finished" }), h("span", { class: "facts" })));
    this.items.set(run.id, item);
    return item;
  }

  #update(item, run, isChosen, pane) {
    const link = item.firstChild;
    link.setAttribute("href", `#${run.id}/${pane}`);
    if (isChosen) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    const { total, finished, failed } = run.rows;
    item.querySelector(".name").textContent = run.plan_name || run.plan_id;
    const state = item.querySelector(".state");
    state.textContent = stateWords(run);
    state.dataset.state = run.state;
    const bar = item.querySelector("progress");
    bar.value = total ? finished / total : 1;
    bar.hidden = FINAL.has(run.state);
    const facts = [`${count(finished)}/${plural(total, "row")}`];
    if (failed) facts.push(`${count(failed)} failed`);
    if (run.usage) facts.push(`${percent(Math.max(saved(run.usage), 0), run.usage.needed)} saved`);
    facts.push(clock(run.created));
    item.querySelector(".facts").textContent = facts.join(" · ");
  }
}

/** What is said of the chosen run above the panes, and the button that cancels it. */
export class RunHead {
  constructor(box, { failed, cancelled }) {
    this.box = box;
    this.failed = failed;
    this.cancelled = cancelled;
  }

  show(watch) {
    if (this.runId !== watch.run.id) this.#make(watch.run);
    const { run, counts, savings } = watch;
    this.state.textContent = stateWords(run);
    this.state.dataset.state = run.state;
    this.cancel.hidden = FINAL.has(run.state);
    this.cancel.disabled = run.state === "cancelling";
    this.bar.max = Math.max(counts.total, 1);
    this.bar.value = counts.total ? counts.finished : 1;
    const { cost } = watch;
    const facts = [
      ["Rows", `${count(counts.finished)} of ${count(counts.total)}`],
      ["Failed", count(counts.failed)],
      ["Prompt tokens saved", `${count(Math.max(savings.saved, 0))} of ${count(savings.needed)}`, percent(Math.max(savings.saved, 0), savings.needed)],
      ["Calls", cost ? count(cost.calls) : count([...watch.operators.values()].reduce((sum, op) => sum + (op.calls ?? 0), 0))],
      ["Time", seconds(cost ? cost.seconds : watch.seconds)],
    ];
    if (watch.notes.length) {
      const pages = watch.notes.reduce((sum, note) => sum + note.pages, 0);
      facts.push(["Pages evicted meanwhile", count(pages)]);
    }
    this.facts.replaceChildren(...facts.flatMap(([term, value, more]) =>
      [h("div", {}, h("dt", {}, term), h("dd", {}, value, more ? h("small", {}, ` ${more}`) : null))]));
    this.error.textContent = run.error ? run.error.message : "";
  }

  #make(run) {
    this.runId = run.id;
    this.state = h("span", { class: "state" });
    this.bar = h("progress", { "aria-label": "Rows finished" });
    this.facts = h("dl", { class: "facts" });
    this.error = h("p", { class: "problem", role: "alert" });
    this.cancel = h("button", { type: "button", id: "cancel", class: "danger" }, "Cancel run");
    this.cancel.addEventListener("click", async () => {
      this.cancel.disabled = true;
      try {
        this.cancelled(await ask(`/v1/runs/${run.id}/cancel`, { method: "POST" }));
      } catch (error) {
        this.failed(error);
      }
    });
    this.box.replaceChildren(
      h("div", { class: "headline" }, h("h2", {}, run.plan_name || run.plan_id), this.state, this.cancel),
      h("p", { class: "quiet" }, h("code", {}, run.id)),
      this.bar, this.facts, this.error);
  }
}

const MAX_ROWS = 500;

/** The rows that are finished, with their outputs. */
export class RowsPane {
  constructor(pane) {
    this.pane = pane;
  }

  load(watch) {
    this.watch = watch;
    this.shown = null;
    this.update();
  }

  update() {
    if (!this.watch) return;
    const rows = [...this.watch.rows.values()].sort((a, b) => a.row - b.row);
    const key = `${this.watch.run.id} ${rows.length} ${this.watch.counts.finished > 0}`;
    if (key === this.shown) return;
    this.shown = key;
    if (!rows.length) {
      const words = this.watch.counts.finished
        ? "The outputs of so many rows are not shown here; GET /v1/runs/{run_id}/outputs has them."
        : "No row is finished yet.";
      redraw(this.pane, h("p", { class: "quiet empty" }, words));
      return;
    }
    const names = Object.keys(rows[0].outputs);
    const cells = rows.slice(0, MAX_ROWS).map((row) => [
      String(row.row),
      ...names.map((name) => row.outputs[name] ?? h("span", { class: "quiet" }, "none")),
      row.errors.length ? h("span", { class: "problem" }, row.errors.map((error) => `${error.operator}: ${error.message}`).join("; ")) : "",
    ]);
    const caption = rows.length > MAX_ROWS ? `The first ${count(MAX_ROWS)} of ${count(rows.length)} finished rows` : "Finished rows";
    const hasErrors = rows.some((row) => row.errors.length);
    const headings = ["Row", ...names, ...(hasErrors ? ["Error"] : [])];
    const shown = hasErrors ? cells : cells.map((row) => row.slice(0, -1));
    redraw(this.pane, h("div", { class: "scroll rows" }, table(caption, headings, shown, { numeric: [0] })));
  }
}

export const runList = () => new RunList(byId("runs"), byId("runs-empty"));
export const rowsPane = () => new RowsPane(byId("pane-rows"));
