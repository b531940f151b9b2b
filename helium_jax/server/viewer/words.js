// Numbers and states in words; the same everywhere on the page.

const COUNT = new Intl.NumberFormat("en");

export const count = (value) => COUNT.format(value);
export const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;
export const percent = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1000).toPrecision(3)} ms`;
  if (value < 90) return `${value.toPrecision(3)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString("en", { hour12: false });
}

export const FINAL = new Set(["completed", "failed", "cancelled", "expired", "interrupted"]);

const MARKS = {
  queued: "◌", planning: "◔", in_progress: "▶", cancelling: "◼", completed: "✓",
  failed: "✕", cancelled: "■", expired: "⧗", interrupted: "⏸",
};

/** A state in one word, with a mark so that colour does not say it alone. */
export function stateWords(run) {
  const word = run.state.replace("_", " ");
  return `${MARKS[run.state] ?? ""} ${run.result === "partial" ? "completed in part" : word}`;
}

/** Prompt tokens that a run did not compute, of those it needed. */
export function saved(usage) {
  return usage.needed - usage.computed - usage.precomputed;
}

/** Text cut to a length, with an ellipsis. */
export function short(text, length) {
  const line = text.replace(/\s+/g, " ");
  return line.length <= length ? line : `${line.slice(0, Math.max(length - 1, 1))}…`;
}
