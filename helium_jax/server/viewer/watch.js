// What the page knows of the chosen run: its description, and what its events have told.

import { ask, askLines, follow } from "./server.js";
import { FINAL } from "./words.js";

const MAX_ROWS = 2000;  // whose outputs the page keeps

export class Watch {
  /** `changed(what)` is called after every change: "run", "operators", "rows" or "end". */
  constructor(run, changed) {
    this.run = run;
    this.operators = new Map();
    this.rows = new Map();
    this.finished = new Set();
    this.failed = new Set();
    this.notes = [];
    this.seconds = 0;  // since the run's start, as far as it is known
    this.changed = changed;
    this.stop = new AbortController();
  }

  async start() {
    if (FINAL.has(this.run.state)) {
      await this.#finish();
      return;
    }
    await follow(this.run.id, {
      signal: this.stop.signal,
      tell: (event) => this.#take(event),
    });
    if (!this.stop.signal.aborted) await this.#finish();
  }

  close() {
    this.stop.abort();
  }

  #take(event) {
    this.seconds = Math.max(this.seconds, event.t_ms / 1000);
    switch (event.type) {
      case "run.planned":
        this.run = { ...this.run, state: this.run.state === "cancelling" ? "cancelling" : "in_progress" };
        this.changed("run");
        break;
      case "op.started":
      case "op.progress":
      case "op.completed":
        this.operators.set(event.operator, { ...this.operators.get(event.operator), ...event });
        this.changed("operators");
        break;
      case "row.completed":
        this.#keep(event);
        this.changed("rows");
        break;
      case "cache.evicted":
        this.notes.push(event);
        this.changed("operators");
        break;
      default:
        break;
    }
  }

  async #finish() {
    const path = `/v1/runs/${this.run.id}`;
    this.run = await ask(path);
    if (this.run.rows.total <= MAX_ROWS) {
      for (const row of await askLines(`${path}/outputs`)) this.#keep(row);
    }
    this.changed("end");
  }

  #keep(row) {
    this.finished.add(row.row);
    if (row.errors.length) this.failed.add(row.row);
    if (this.rows.size < MAX_ROWS || this.rows.has(row.row)) this.rows.set(row.row, row);
  }

  /** What the run cost; null while it goes on, when its events know more. */
  get cost() {
    return FINAL.has(this.run.state) ? this.run.usage : null;
  }

  /** Rows done and failed as far as is known now. */
  get counts() {
    const { total, finished, failed } = this.run.rows;
    return { total, finished: Math.max(finished, this.finished.size), failed: Math.max(failed, this.failed.size) };
  }

  /** Prompt tokens not computed so far, of those needed: from the run's usage, or its operators. */
  get savings() {
    const usage = this.cost;
    if (usage) return { saved: usage.needed - usage.computed - usage.precomputed, needed: usage.needed };
    let kv = 0, needed = 0;
    for (const operator of this.operators.values()) {
      kv += operator.kv_cached ?? 0;
      needed += operator.prompt_tokens ?? 0;
    }
    return { saved: kv, needed };
  }
}
