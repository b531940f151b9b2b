// Lays a graph out in columns, each node right of those it needs; bodies lie inside their operator.

export const LEAF = { width: 184, height: 62 };
export const SMALL = { width: 132, height: 34 };  // inputs, outputs and what needs no model
const GAP_X = 54;
const GAP_Y = 16;
const PAD = 14;
const TITLE = 60;  // of an operator with a body, above the body
const SWEEPS = 6;

/**
 * Returns { width, height, boxes, paths }: a box per node ({ node, x, y, width, height, inner }) and a
 * path per edge ({ edge, points }), all in the coordinates of the picture. `sizeOf` gives a node
 * without a body its size.
 */
export function layOut(nodes, edges, sizeOf) {
  const scopes = new Map();
  for (const node of nodes) {
    const scope = scopes.get(node.inside ?? null) ?? [];
    scope.push(node);
    scopes.set(node.inside ?? null, scope);
  }
  return layOutScope(null, scopes, edges, sizeOf);
}

function layOutScope(owner, scopes, edges, sizeOf) {
  const items = new Map();
  for (const node of scopes.get(owner) ?? []) {
    if (scopes.has(node.name)) {
      const inner = layOutScope(node.name, scopes, edges, sizeOf);
      const width = Math.max(inner.width, LEAF.width - 2 * PAD) + 2 * PAD;
      items.set(node.name, { node, width, height: inner.height + TITLE + PAD, inner });
    } else {
      items.set(node.name, { node, ...sizeOf(node) });
    }
  }
  const own = edges.filter((edge) => items.has(edge.source) && items.has(edge.target));
  const layers = assignLayers([...items.keys()], own);
  const { columns, chains } = addWaypoints(items, own, layers);
  order(columns, chains);
  return place(items, columns, chains);
}

/** The longest way from a node without needs; the driver of a loop cannot come back here. */
function assignLayers(names, edges) {
  const layers = new Map(names.map((name) => [name, 0]));
  for (let round = 0; round < names.length; round += 1) {
    let isStable = true;
    for (const { source, target } of edges) {
      if (layers.get(target) <= layers.get(source)) {
        layers.set(target, layers.get(source) + 1);
        isStable = false;
      }
    }
    if (isStable) break;
  }
  // What only feeds a later column stands right before it.
  for (const name of names) {
    const out = edges.filter((edge) => edge.source === name);
    const isFree = !edges.some((edge) => edge.target === name);
    if (isFree && out.length) {
      layers.set(name, Math.min(...out.map((edge) => layers.get(edge.target))) - 1);
    }
  }
  return layers;
}

/** Columns of items, and for each edge its chain of items; long edges get points to pass through. */
function addWaypoints(items, edges, layers) {
  const columns = Array.from({ length: Math.max(-1, ...layers.values()) + 1 }, () => []);
  for (const [name, item] of items) {
    item.layer = layers.get(name);
    columns[item.layer].push(item);
  }
  const chains = edges.map((edge) => {
    const chain = [items.get(edge.source)];
    for (let layer = layers.get(edge.source) + 1; layer < layers.get(edge.target); layer += 1) {
      const point = { width: null, height: 6, layer };  // as wide as its column
      columns[layer].push(point);
      chain.push(point);
    }
    chain.push(items.get(edge.target));
    return { edge, chain };
  });
  return { columns, chains };
}

/** Sorts columns so that neighbours lie near each other: the mean place of what they are joined to. */
function order(columns, chains) {
  const neighbours = new Map();
  const join = (one, other) => neighbours.set(one, [...(neighbours.get(one) ?? []), other]);
  for (const { chain } of chains) {
    for (let i = 1; i < chain.length; i += 1) {
      join(chain[i], chain[i - 1]);
      join(chain[i - 1], chain[i]);
    }
  }
  const rank = () => columns.forEach((column) => column.forEach((item, i) => {
    item.rank = (i + 0.5) / column.length;
  }));
  rank();
  let best = columns.map((column) => [...column]);  // the author's order, unless another is better
  let fewest = countCrossings(chains);
  for (let sweep = 0; sweep < SWEEPS && fewest; sweep += 1) {
    const inOrder = sweep % 2 ? [...columns].reverse() : columns;
    for (const column of inOrder) {
      rank();
      const weight = new Map(column.map((item) => {
        const near = neighbours.get(item) ?? [];
        const mean = near.reduce((sum, other) => sum + other.rank, 0) / near.length;
        return [item, near.length ? mean : item.rank];
      }));
      column.sort((a, b) => weight.get(a) - weight.get(b));
    }
    rank();
    const crossings = countCrossings(chains);
    if (crossings < fewest) {
      fewest = crossings;
      best = columns.map((column) => [...column]);
    }
  }
  best.forEach((column, i) => columns[i].splice(0, column.length, ...column));
}

/** Pairs of lines between the same two columns that cross. */
function countCrossings(chains) {
  const lines = new Map();
  for (const { chain } of chains) {
    for (let i = 1; i < chain.length; i += 1) {
      const line = [chain[i - 1].rank, chain[i].rank];
      lines.set(chain[i].layer, [...(lines.get(chain[i].layer) ?? []), line]);
    }
  }
  let crossings = 0;
  for (const between of lines.values()) {
    for (const [a, b] of between) {
      for (const [c, d] of between) crossings += a < c && b > d ? 1 : 0;
    }
  }
  return crossings;
}

function place(items, columns, chains) {
  const heights = columns.map((c) => c.reduce((sum, item) => sum + item.height + GAP_Y, -GAP_Y));
  const height = Math.max(0, ...heights);
  let x = 0;
  columns.forEach((column, index) => {
    const width = Math.max(0, ...column.map((item) => item.width));
    let y = (height - heights[index]) / 2;
    for (const item of column) {
      item.width ??= width;
      item.x = x + (width - item.width) / 2;
      item.y = y;
      y += item.height + GAP_Y;
    }
    x += width + GAP_X;
  });
  const boxes = [];
  const paths = [];
  for (const item of items.values()) {
    const { node, x: left, y: top, width, height: tall, inner } = item;
    boxes.push({ node, x: left, y: top, width, height: tall, hasBody: Boolean(inner) });
    if (!inner) continue;
    const dx = left + (width - inner.width) / 2;
    const dy = top + TITLE;
    boxes.push(...inner.boxes.map((box) => ({ ...box, x: box.x + dx, y: box.y + dy })));
    paths.push(...inner.paths.map(({ edge, points }) => ({
      edge, points: points.map(([px, py]) => [px + dx, py + dy]),
    })));
  }
  for (const { edge, chain } of chains) {
    const points = [];
    chain.forEach((item, i) => {
      const middle = item.y + item.height / 2;
      if (i > 0) points.push([item.x, middle]);
      if (i < chain.length - 1) points.push([item.x + item.width, middle]);
    });
    paths.push({ edge, points });
  }
  return { width: Math.max(x - GAP_X, 0), height, boxes, paths };
}

/** A smooth line through the points as the `d` of an SVG path. */
export function curve(points) {
  let d = `M${points[0][0]},${points[0][1]}`;
  for (let i = 1; i < points.length; i += 1) {
    const [x0, y0] = points[i - 1];
    const [x1, y1] = points[i];
    const middle = (x0 + x1) / 2;
    d += x1 - x0 < 1 ? `L${x1},${y1}` : `C${middle},${y0} ${middle},${y1} ${x1},${y1}`;
  }
  return d;
}
