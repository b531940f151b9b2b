// The timeline pane: per worker and operator, how many calls wait and why, and those at the engine.

import { asTable, byId, h, legend, redraw, roving, s, table } from "./dom.js";
import { ask } from "./server.js";
import { count, percent, plural, seconds, short } from "./words.js";

const LABEL = 150;
const LANE = 15;
const BAND = 20;  // of the calls that wait
const MAX_LANES = 24;  // of one operator; more calls at once are drawn over each other
const MAX_DRAWN = 2000;
const TICKS = 8;

const WAITS = [
  ["encode", "waits: its prompt becomes tokens"],
  ["hold", "waits: the schedule holds it back"],
  ["room", "waits: no room at the engine"],
];
const WORK = [
  ["prefill", "engine's queue and prefill"],
  ["decode", "decode"],
];
const PHASES = [...WAITS, ...WORK];
const MEANING = new Map(PHASES);

/** The stretches of a call: [class, start, end]. */
function phases(span) {
  if (span.source === "result") return [["served", span.finished, span.finished]];
  const ends = [span.encoded, span.submitted, span.admitted ?? span.submitted, span.first_token, span.finished];
  const parts = [];
  let start = span.ready;
  for (let i = 0; i < PHASES.length; i += 1) {
    const end = ends[i] ?? span.finished;
    if (end > start) parts.push([PHASES[i][0], start, end]);
    start = Math.max(start, end);
    if (ends[i] === null) break;
  }
  return parts;
}

const isWait = ([name]) => WAITS.some(([wait]) => wait === name);

/** When a call came to the engine, or where its mark stands if it never did. */
const arrival = (span) => (span.source === "result" ? span.finished : span.admitted ?? span.submitted ?? span.finished);

export class TimelinePane {
  constructor(pane) {
    this.pane = pane;
    this.spans = [];
  }

  async load(watch) {
    this.watch = watch;
    const reply = await ask(`/v1/runs/${watch.run.id}/timeline?limit=${MAX_DRAWN}`);
    if (this.watch !== watch) return;
    this.leftOut = reply.left_out;
    this.spans = reply.spans;
    this.#draw();
  }

  #draw() {
    if (!this.spans.length) {
      redraw(this.pane, h("p", { class: "quiet empty" }, "No calls to draw: none was made yet, or the server was started anew since."));
      return;
    }
    const drawn = this.spans;
    const rows = group(drawn);
    const width = Math.max(this.pane.clientWidth - 24, 640);
    const end = Math.max(...drawn.map((span) => span.finished), 1e-6);
    const x = (time) => LABEL + (time * (width - LABEL - 12)) / end;
    const picture = s("svg", { class: "gantt", role: "group", "aria-label": "Calls over time", width });
    let y = 30;
    const marks = [];
    for (const row of rows) {
      if (row.heading) {
        picture.append(s("text", { class: "worker", x: 0, y: y + 13 }, row.heading));
        y += 22;
      }
      picture.append(
        s("line", { class: "rule", x1: 0, x2: width, y1: y - 3, y2: y - 3 }),
        s("text", { class: "title", x: 12, y: y + 11 }, short(row.operator, 20)),
      );
      if (row.most) {
        picture.append(
          ...bands(row, y, x),
          s("text", { class: "most", x: LABEL - 8, y: y + 14 }, `${count(row.most)} waiting`),
        );
        y += BAND + 4;
      }
      for (const { span, lane } of row.calls) {
        const mark = this.#mark(span, y + lane * LANE, x);
        marks.push({ mark, span });
        picture.append(mark);
      }
      y += row.lanes * LANE + 10;
    }
    for (const time of ticks(end)) {
      picture.prepend(
        s("line", { class: "tick", x1: x(time), x2: x(time), y1: 20, y2: y }),
        s("text", { class: "time", x: x(time), y: 13 }, tickLabel(time, end)),
      );
    }
    picture.append(s("rect", { class: "frame", x: LABEL, y: 20, width: width - LABEL - 12, height: y - 20 }));
    picture.setAttribute("height", y + 4);
    picture.prepend(patterns());
    this.note = this.note ?? h("p", { class: "chosen-call", role: "status" });
    if (!this.note.textContent) this.note.textContent = "Choose a call to read its times: arrow keys walk, Enter chooses.";
    roving(marks.map(({ mark }) => mark), (i) => { this.note.textContent = describe(marks[i].span); });
    const left = this.leftOut;
    redraw(
      this.pane,
      this.#legend(),
      h("div", { class: "picture" }, picture),
      left ? h("p", { class: "quiet" }, `${plural(left, "earlier call")} not drawn.`) : "",
      this.note,
      asTable("timeline-table", () => this.#table()),
    );
  }

  #mark(span, y, x) {
    const mark = s("g", { class: `call ${span.source}`, role: "button", "aria-label": describe(span) });
    mark.dataset.key = `${span.operator} ${span.row} ${span.index.join(".")}`;
    const left = x(arrival(span));
    const right = Math.max(x(span.finished), left + 4);
    for (const [name, start, end] of phases(span).filter((phase) => !isWait(phase))) {
      mark.append(s("rect", { class: name, x: x(start), y, width: Math.max(x(end) - x(start), name === "served" ? 4 : 0.8), height: LANE - 4 }));
    }
    mark.append(s("rect", { class: "outline", x: left, y, width: right - left, height: LANE - 4 }));
    if (span.source === "failed") {
      mark.append(s("path", { class: "cross", d: `M${right - 4},${y + 1}l7,9m0,-9l-7,9` }));
    }
    return mark;
  }

  #legend() {
    const swatch = (name) => [
      s("rect", { class: name, x: 0, y: 1, width: 22, height: 12 }),
      s("rect", { class: "outline", x: 0.5, y: 1.5, width: 21, height: 11 }),
    ];
    return legend("What the picture's colours mean", [
      ...PHASES.map(([name, meaning]) => [swatch(name), meaning]),
      [swatch("served"), "answer was there already"],
      [s("path", { class: "cross", d: "M7,2l8,10m0,-10l-8,10" }), "failed"],
    ]);
  }

  #table() {
    const headings = ["Operator", "Row", "Worker", "Ready", "Encoded", "Let go", "At the engine", "First token", "End", "Source", "Prompt", "From KV", "Answer"];
    const rows = this.spans.map((span) => [
      span.operator, [span.row, ...span.index].join("."), span.worker === null ? "any" : String(span.worker),
      seconds(span.ready), seconds(span.encoded), seconds(span.submitted), seconds(span.admitted),
      seconds(span.first_token), seconds(span.finished), span.source, count(span.prompt_tokens),
      percent(span.kv_cached, span.prompt_tokens), count(span.completion_tokens),
    ]);
    return table("Calls of the run, times since its start", headings, rows, { numeric: [1, 3, 4, 5, 6, 7, 8, 10, 11, 12] });
  }
}

function describe(span) {
  const place = `${span.operator}, row ${[span.row, ...span.index].join(".")}`;
  if (span.source === "result") return `${place}: answered at ${seconds(span.finished)} without a call`;
  const times = phases(span).map(([name, start, end]) => `${MEANING.get(name).replace("waits: ", "")} ${seconds(end - start)}`);
  const end = { running: "goes on", failed: "failed" }[span.source] ?? `${plural(span.completion_tokens, "token")} answered`;
  return `${place}: ${times.join(", ")}; ${count(span.kv_cached)} of ${plural(span.prompt_tokens, "prompt token")} from KV; ${end}`;
}

/** Rows of the picture: per worker, per operator, calls in lanes that do not overlap. */
function group(spans) {
  const groups = new Map();
  for (const span of spans) {
    const key = JSON.stringify([span.worker ?? 0, span.operator]);
    groups.set(key, [...(groups.get(key) ?? []), span]);
  }
  const rows = [...groups.values()].sort((a, b) =>
    (a[0].worker ?? 0) - (b[0].worker ?? 0) || a[0].ready - b[0].ready || a[0].operator.localeCompare(b[0].operator));
  let worker = null;
  return rows.map((calls) => {
    const own = calls[0].worker ?? 0;
    const heading = own === worker ? null : `Worker ${own}`;
    worker = own;
    const free = [];
    const arrived = calls.filter((span) => span.source !== "running" || span.submitted !== null);
    const placed = arrived.sort((a, b) => arrival(a) - arrival(b)).map((span) => {
      let lane = free.findIndex((end) => end <= arrival(span));
      if (lane < 0) lane = Math.min(free.length, MAX_LANES - 1);
      free[lane] = Math.max(free[lane] ?? 0, span.finished);
      return { span, lane };
    });
    const { steps, most } = countWaiting(calls);
    return { heading, operator: calls[0].operator, calls: placed, lanes: free.length, steps, most };
  });
}

/** How many calls wait for each reason from each moment on: [time, counts in the order of WAITS]. */
function countWaiting(calls) {
  const changes = [];
  for (const span of calls) {
    for (const [name, start, end] of phases(span).filter(isWait)) {
      const reason = WAITS.findIndex(([wait]) => wait === name);
      changes.push([start, reason, 1], [end, reason, -1]);
    }
  }
  changes.sort((a, b) => a[0] - b[0]);
  const counts = WAITS.map(() => 0);
  const steps = [];
  let most = 0;
  for (const [time, reason, change] of changes) {
    counts[reason] += change;
    if (steps.at(-1)?.[0] === time) steps.at(-1)[1] = [...counts];
    else steps.push([time, [...counts]]);
  }
  for (const [, held] of steps) most = Math.max(most, held.reduce((sum, one) => sum + one, 0));
  return { steps, most };
}

/** Areas as high as the number of calls that wait, one above the other by reason. */
function bands(row, y, x) {
  const unit = BAND / row.most;
  return WAITS.map(([name], reason) => {
    let top = "";
    let bottom = "";
    row.steps.forEach(([time, counts], i) => {
      const end = row.steps[i + 1]?.[0] ?? time;
      const below = counts.slice(0, reason).reduce((sum, one) => sum + one, 0);
      const low = y + BAND - below * unit;
      const high = low - counts[reason] * unit;
      top += `${i ? "L" : "M"}${x(time)},${high}L${x(end)},${high}`;
      bottom = `L${x(end)},${low}L${x(time)},${low}${bottom}`;
    });
    return s("path", { class: `band ${name}`, d: `${top}${bottom}z` });
  });
}

function ticks(end) {
  const raw = end / TICKS;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * unit).find((one) => one >= raw);
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, i) => i * step);
}

function tickLabel(time, end) {
  const [unit, name] = end < 1 ? [1000, "ms"] : [1, "s"];
  return `${Number((time * unit).toPrecision(4))} ${name}`;
}

/** Hatchings by reason; their lines take the text's colour. */
function patterns() {
  const pattern = (id, size, angle, d) => s("pattern", {
    id, width: size, height: size, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${angle})`,
  }, s("path", { class: "hatch", d }));
  return s("defs", {},
    pattern("hatch-encode", 4, 0, "M1,1h1.4v1.4h-1.4z"),
    pattern("hatch-hold", 5, 45, "M0,0v5"),
    pattern("hatch-room", 4, -45, "M0,0v4M0,0h4"));
}

export const timelinePane = () => new TimelinePane(byId("pane-timeline"));
