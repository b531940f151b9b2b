// What the page knows of the chosen run: its description, and what its events have told.

import { ask, askLines, follow } from "./server.js";
import { FINAL } from "./words.js";

export class Watch {
  /** `changed(what)` is called after every change: "run", "operators", "rows" or "end". */
  constructor(run, changed) {
    this.run = run;
    this.operators = new Map();
    this.rows = new Map();
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
        this.rows.set(event.row, event);
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
    for (const row of await askLines(`${path}/outputs`)) this.rows.set(row.row, row);
    this.changed("end");
  }

  /** Rows done and failed as far as is known now. */
  get counts() {
    const failed = [...this.rows.values()].filter((row) => row.errors.length).length;
    const { total, finished, failed: known } = this.run.rows;
    return { total, finished: Math.max(finished, this.rows.size), failed: Math.max(failed, known) };
  }

  /** Prompt tokens not computed so far, of those needed: from the run's usage, or its operators. */
  get savings() {
    const usage = this.run.usage;
    if (usage) return { saved: usage.needed - usage.computed - usage.precomputed, needed: usage.needed };
    let kv = 0, needed = 0;
    for (const operator of this.operators.values()) {
      kv += operator.kv_cached ?? 0;
      needed += operator.prompt_tokens ?? 0;
    }
    return { saved: kv, needed };
  }
}
