// Puts the page together: which run and pane the address names, what is asked again and when.

import { byId } from "./dom.js";
import { pagesPane } from "./pages.js";
import { planPane } from "./plan.js";
import { RunHead, rowsPane, runList } from "./runs.js";
import { ask, key, LostError, ServerError } from "./server.js";
import { timelinePane } from "./timeline.js";
import { Watch } from "./watch.js";
import { FINAL, stateWords } from "./words.js";

const RUNS_MS = 2000;
const LIVE_MS = 1000;
const PANES = ["rows", "plan", "timeline", "pages"];

const list = runList();
const head = new RunHead(byId("head"), {
  failed: say,
  cancelled: (run) => { if (watch?.run.id === run.id) { watch.run = run; refresh(); } loadRuns(); },
});
const panes = { rows: rowsPane(), plan: planPane(), timeline: timelinePane(), pages: pagesPane() };
const tabs = PANES.map((name) => byId(`tab-${name}`));

let runs = [];
let watch = null;
let pane = "plan";
let announced = "";
let isDue = false;

// --- the address: #run_id/pane ---------------------------------------------------------------

function address() {
  const [id, name] = location.hash.slice(1).split("/");
  return { id, name: PANES.includes(name) ? name : "plan" };
}

async function go() {
  const wanted = address();
  pane = wanted.name;
  showTabs();
  const run = runs.find((one) => one.id === wanted.id) ?? runs[0];
  if (!run) {
    byId("head").replaceChildren();
    if (pane === "pages") await attempt(() => panes.pages.load());
    return;
  }
  if (watch?.run.id !== run.id) {
    watch?.close();
    const own = watch = new Watch(run, (what) => { if (own === watch) changed(what); });
    announced = "";
    attempt(() => own.start());
  }
  list.show(runs, run.id, pane);
  refresh();
  await loadPane();
}

function showTabs() {
  for (const [i, name] of PANES.entries()) {
    const isChosen = name === pane;
    tabs[i].setAttribute("aria-selected", String(isChosen));
    tabs[i].setAttribute("tabindex", isChosen ? "0" : "-1");
    byId(`pane-${name}`).hidden = !isChosen;
  }
}

function choosePane(name) {
  location.hash = `#${watch?.run.id ?? ""}/${name}`;
}

// --- what is shown ---------------------------------------------------------------------------

async function loadPane() {
  if (!watch && pane !== "pages") return;
  await attempt(() => panes[pane].load(watch));
}

/** Takes over news of the chosen run, at most once a frame. */
function changed(what) {
  if (what === "end") {
    loadRuns();
    loadPane();
  }
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; refresh(); });
}

function refresh() {
  if (!watch) return;
  head.show(watch);
  list.update(watch, pane);
  if (pane === "rows") panes.rows.update();
  if (pane === "plan") panes.plan.update();
  announce();
}

/** Tells screen readers of states and of every quarter of the rows. */
function announce() {
  const { finished, failed, total } = watch.counts;
  const quarter = total ? Math.floor((4 * finished) / total) : 4;
  const failures = failed ? `, ${failed} failed` : "";
  const words = `${watch.run.plan_name || "run"}: ${stateWords(watch.run).slice(2)}, ${finished} of ${total} rows${failures}`;
  const mark = `${watch.run.id} ${watch.run.state} ${quarter}`;
  if (mark !== announced) {
    announced = mark;
    byId("live").textContent = words;
  }
}

// --- what is asked again ---------------------------------------------------------------------

async function loadRuns() {
  const reply = await attempt(() => ask("/v1/runs"));
  if (!reply) return;
  byId("link").textContent = "";
  const isFirst = !runs.length && reply.data.length;
  runs = reply.data;
  list.show(runs, watch?.run.id, pane);
  if (isFirst) await go();
  const own = runs.find((run) => run.id === watch?.run.id);
  if (own && !FINAL.has(watch.run.state)) {
    watch.run = own;
    refresh();
  }
}

async function every(milliseconds, work) {
  for (;;) {
    await new Promise((resume) => setTimeout(resume, milliseconds));
    if (!document.hidden && !byId("key-dialog").open) await work();
  }
}

async function live() {
  if (pane === "pages") await attempt(() => panes.pages.load());
  else if (pane === "timeline" && watch && !FINAL.has(watch.run.state)) await loadPane();
}

/** What work gives; undefined when it failed, which is said, or when a key is asked for. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ServerError && error.status === 401) askForKey();
    else say(error);
    return undefined;
  }
}

function say(error) {
  if (error instanceof LostError) byId("link").textContent = "The server does not answer; trying again";
  else if (error instanceof ServerError) byId("link").textContent = error.message;
  else throw error;
}

// --- the key, the theme, the keyboard --------------------------------------------------------

function askForKey() {
  const dialog = byId("key-dialog");
  if (dialog.open) return;
  byId("key-error").textContent = key.get() ? "This key is not valid here." : "";
  byId("key-value").value = key.get();
  dialog.showModal();
}

function useKey(value) {
  key.set(value.trim());
  watch?.close();
  watch = null;
  runs = [];
  start();
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${name === "dark" ? "light" : "dark"} colours`);
  if (pane === "pages") attempt(() => panes.pages.load());
}

function wire() {
  byId("key").addEventListener("click", askForKey);
  byId("key-form").addEventListener("submit", () => useKey(byId("key-value").value));
  byId("key-forget").addEventListener("click", () => { byId("key-dialog").close(); useKey(""); });
  const systemTheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  setTheme(localStorage.getItem("helium-jax-theme") ?? systemTheme);
  byId("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("helium-jax-theme", next);
    setTheme(next);
  });
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choosePane(PANES[i]));
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1 };
      let next = null;
      if (event.key in steps) next = (i + steps[event.key] + PANES.length) % PANES.length;
      else if (event.key === "Home") next = 0;
      else if (event.key === "End") next = PANES.length - 1;
      else return;
      event.preventDefault();
      choosePane(PANES[next]);
      tabs[next].focus();
    });
  });
  addEventListener("hashchange", () => attempt(go));
  addEventListener("resize", () => { if (pane === "pages" || pane === "timeline") loadPane(); });
}

async function start() {
  const models = await attempt(() => ask("/v1/models"));
  if (!models) return;
  byId("link").textContent = "";
  byId("model").textContent = models.data[0]?.id ?? "";
  await loadRuns();
  if (!runs.length) await go();
}

wire();
start();
every(RUNS_MS, loadRuns);
every(LIVE_MS, live);
