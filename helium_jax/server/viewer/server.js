// Talks to the server that the page came from, with the key of this tab.

const KEY = "helium-jax-key";
const RETRY_MS = 1000;

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer that is an error; `status` 401 asks for a key. */
export class ServerError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The server could not be reached. */
export class LostError extends Error {}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  try {
    return await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    throw new LostError(error.message);
  }
}

async function refuse(response) {
  let error = {};
  try { error = (await response.json()).error ?? {}; } catch { /* not ours: the status must do */ }
  throw new ServerError(response.status, error.code ?? "", error.message ?? `HTTP ${response.status}`);
}

export async function ask(path, options) {
  const response = await request(path, options);
  if (!response.ok) await refuse(response);
  return response.json();
}

/** The lines of an answer in JSON lines. */
export async function askLines(path) {
  const response = await request(path);
  if (!response.ok) await refuse(response);
  return (await response.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/**
 * Reads a run's events to their end, over lost connections: what Last-Event-ID names is not told
 * again. `tell` gets every event.
 */
export async function follow(runId, { tell, signal }) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const response = await request(`/v1/runs/${runId}/events`, { headers, signal });
      if (response.status === 204) return;
      if (response.status === 410) last = "";  // some are gone: begin with the oldest kept
      if (!response.ok) await refuse(response);
      for await (const event of readEvents(response.body)) {
        if (event.id) last = event.id;
        if (event.data.type) tell(event.data);
        if (event.data.type === "run.completed") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const isPassing = error instanceof LostError || error.status === 410 || error.status >= 500;
      if (!isPassing) throw error;
    }
    await new Promise((resume) => setTimeout(resume, RETRY_MS));
  }
}

async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    let done, value;
    try { ({ done, value } = await reader.read()); } catch (error) { throw new LostError(error.message); }
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const fields = {};
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
      }
      if (fields.data) yield { id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}
