// A graph as boxes in columns: each node stands right of all that it reads from.
export type GraphJson = Record<string, { class_type: string; inputs?: Record<string, unknown>; _meta?: { title?: string } }>;

const BOX = { width: 168, height: 40, right: 56, below: 18 };
/** Beyond this a picture says nothing. */
const MOST = 300;

export function Graph({ graph, current, failed }: { graph: GraphJson; current: string | null; failed: string | null }) {
  const ids = Object.keys(graph);
  if (ids.length > MOST) return <p class="quiet">{ids.length} nodes: too many to be drawn.</p>;
  const depths = depthsOf(graph);
  const filled = new Map<number, number>();
  const places = new Map(ids.map((id) => {
    const column = depths.get(id) ?? 0;
    const row = filled.get(column) ?? 0;
    filled.set(column, row + 1);
    return [id, { x: column * (BOX.width + BOX.right), y: row * (BOX.height + BOX.below) }];
  }));
  const width = Math.max(...[...places.values()].map(({ x }) => x)) + BOX.width;
  const height = Math.max(...[...places.values()].map(({ y }) => y)) + BOX.height;
  const edges = ids.flatMap((id) => sourcesOf(graph, id).map((source) => [source, id] as const));
  return (
    <div class="wide" tabIndex={0} role="group" aria-label="The graph">
      <svg class="graph" width={width + 4} height={height + 4} viewBox={`-2 -2 ${width + 4} ${height + 4}`} role="img" aria-label={`A graph of ${ids.length} nodes: ${ids.map((id) => graph[id]!.class_type).join(", ")}`}>
        {edges.map(([source, id]) => {
          const from = places.get(source)!;
          const to = places.get(id)!;
          const [x, y, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
          const bend = Math.max(24, (x2 - x) / 2);
          return <path key={`${source} ${id}`} d={`M${x},${y} C${x + bend},${y} ${x2 - bend},${y2} ${x2},${y2}`} />;
        })}
        {ids.map((id) => {
          const { x, y } = places.get(id)!;
          const node = graph[id]!;
          const kind = id === failed ? " is-failed" : id === current ? " is-current" : "";
          return (
            <g key={id} class={`node${kind}`} transform={`translate(${x},${y})`}>
              <title>{`${id}: ${node.class_type}\n${valuesOf(node.inputs)}`}</title>
              <rect width={BOX.width} height={BOX.height} rx="8" />
              <text x="10" y="17">{cut(node._meta?.title || node.class_type, 24)}</text>
              <text x="10" y="32" class="node-id">{cut(`${id} ${node.class_type}`, 28)}</text>
            </g>
          );
        })}
      </svg>
    </div>
  );
}

const cut = (words: string, most: number) => (words.length > most ? `${words.slice(0, most - 1)}…` : words);
const isLink = (value: unknown, graph: GraphJson): value is [string, number] =>
  Array.isArray(value) && value.length === 2 && typeof value[1] === "number" && String(value[0]) in graph;

function sourcesOf(graph: GraphJson, id: string): string[] {
  return Object.values(graph[id]?.inputs ?? {}).filter((value) => isLink(value, graph)).map((value) => String((value as [string, number])[0]));
}

function valuesOf(inputs: Record<string, unknown> = {}): string {
  return Object.entries(inputs).filter(([, value]) => !Array.isArray(value)).map(([name, value]) => `${name}: ${cut(String(value), 80)}`).join("\n");
}

/** How many nodes stand before each one on the longest way to it. Walked without recursion: chains may be long. */
function depthsOf(graph: GraphJson): Map<string, number> {
  const depths = new Map<string, number>();
  const open = new Set<string>();
  const stack = Object.keys(graph).reverse();
  while (stack.length) {
    const id = stack.at(-1)!;
    const before = sourcesOf(graph, id).filter((source) => !depths.has(source) && !open.has(source));
    if (depths.has(id) || before.length === 0) {
      stack.pop();
      open.delete(id);
      if (!depths.has(id)) depths.set(id, Math.max(-1, ...sourcesOf(graph, id).map((source) => depths.get(source) ?? -1)) + 1);
    } else {
      open.add(id);
      stack.push(...before);
    }
  }
  return depths;
}
