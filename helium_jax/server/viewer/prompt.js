// A call's prompt as the model saw it, with the stretch that other calls begin with too shaded.

import { h } from "./dom.js";
import { ask } from "./server.js";
import { count, percent, plural } from "./words.js";

const MEANINGS = {
  operator: "every prompt of this operator begins so",
  run: "another prompt of the run begins so too",
  none: "this prompt's own",
};

/** Offers the calls of an operator and shows the prompt of the chosen one. */
export async function showPrompts(box, runId, operator) {
  const path = `/v1/runs/${runId}/prompts?operator=${encodeURIComponent(operator)}`;
  const found = await ask(path);
  if (!found.data.length) {
    box.replaceChildren(h("p", { class: "quiet" }, "No prompt of this operator was made, or it is not kept."));
    return;
  }
  const places = found.data;
  const shown = h("div", { "aria-live": "polite" });
  const select = h("select", { id: "prompt-row" }, places.map((place, i) => {
    const inside = place.index.length ? `, inside ${place.index.join(".")}` : "";
    return h("option", { value: i }, `Row ${place.row}${inside}`);
  }));
  const show = async () => {
    const place = places[Number(select.value)];
    const query = new URLSearchParams({ operator, row: place.row, index: place.index.join(".") });
    shown.replaceChildren(...draw(await ask(`/v1/runs/${runId}/prompt?${query}`)));
  };
  select.addEventListener("change", show);
  box.replaceChildren(
    h("p", { class: "choose" }, h("label", { for: "prompt-row" }, "Prompt of"), " ", select,
      found.whole ? null : h("span", { class: "quiet" }, " Later prompts are not kept.")),
    shown,
  );
  await show();
}

function draw(prompt) {
  const cached = prompt.kv_cached === null
    ? "not over yet"
    : `${count(prompt.kv_cached)} (${percent(prompt.kv_cached, prompt.prompt_tokens)}) found in the KV store`;
  return [
    h("p", { class: "quiet" }, `${plural(prompt.prompt_tokens, "token")}, ${cached}.`),
    h("ul", { class: "legend" }, prompt.parts.map((part) =>
      h("li", {}, h("span", { class: `swatch shared-${part.shared}` }), `${MEANINGS[part.shared]}: ${plural(part.tokens, "token")}`))),
    h("pre", { class: "prompt", tabindex: "0", "aria-label": "Prompt" }, prompt.parts.map((part) =>
      h("span", { class: `shared-${part.shared}`, title: MEANINGS[part.shared] }, part.text))),
  ];
}
