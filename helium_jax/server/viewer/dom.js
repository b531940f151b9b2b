// Makes elements. Text only ever becomes text: nothing here, or anywhere else, parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) element.append(child);
  }
  return element;
}

/** An HTML element; strings among the children become text. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** The element of an id that the page surely has. */
export const byId = (id) => document.getElementById(id);

/** A table with a caption and a heading per column; cells are text or elements. */
export function table(caption, headings, rows, { numeric = [] } = {}) {
  const align = (index) => (numeric.includes(index) ? "number" : undefined);
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, headings.map((text, i) => h("th", { scope: "col", class: align(i) }, text)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) => h("td", { class: align(i) }, cell))))),
  );
}

/** A picture's text alternative, folded away until it is asked for; stays open when redrawn. */
export function asTable(id, make) {
  const before = document.getElementById(id);
  const box = h("details", { id, class: "as-table", open: before?.open });
  const body = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" });
  const show = () => { if (box.open && !body.firstChild) body.append(make()); };
  box.append(h("summary", { "data-key": id }, "Show as a table"), body);
  box.addEventListener("toggle", show);
  show();
  return box;
}

/**
 * Replaces what a pane shows without taking the keyboard's place away: the element with the same
 * `data-key` has the focus afterwards, or the pane itself where that is gone.
 */
export function redraw(pane, ...children) {
  const active = document.activeElement;
  const wasInside = active !== pane && pane.contains(active);
  pane.replaceChildren(...children);
  if (!wasInside) return;
  const { key } = active.dataset;
  const again = key && pane.querySelector(`[data-key="${CSS.escape(key)}"]`);
  (again || pane).focus();
}

/** A legend: pairs of a swatch (an SVG element drawn into 22 x 14) and its meaning. */
export function legend(label, entries) {
  return h(
    "ul",
    { class: "legend", "aria-label": label },
    entries.map(([swatch, text]) =>
      h("li", {}, s("svg", { width: 22, height: 14, "aria-hidden": "true" }, swatch), text)),
  );
}

/**
 * One stop of the tab key for many marks: arrows go from one to the next, Enter and Space choose.
 * `marks` are SVG or HTML elements in reading order.
 */
export function roving(marks, choose) {
  marks.forEach((mark, index) => {
    mark.setAttribute("tabindex", index === 0 ? "0" : "-1");
    mark.addEventListener("click", () => choose(index));
    mark.addEventListener("focus", () => {
      for (const other of marks) other.setAttribute("tabindex", other === mark ? "0" : "-1");
    });
    mark.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
      let target = null;
      if (event.key in steps) target = marks[index + steps[event.key]];
      else if (event.key === "Home") target = marks[0];
      else if (event.key === "End") target = marks[marks.length - 1];
      else if (event.key === "Enter" || event.key === " ") choose(index);
      else return;
      event.preventDefault();
      target?.focus();
    });
  });
}
