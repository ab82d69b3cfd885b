// A small line over time, with what it says in words for those who do not see it.
export function Plot(props: { title: string; points: (readonly [number, number])[]; most?: number; say?: (value: number) => string; since?: string }) {
  const { points } = props;
  const width = 240;
  const height = 48;
  const most = props.most ?? Math.max(1, ...points.map(([, value]) => value));
  const from = points[0]?.[0] ?? 0;
  const until = points.at(-1)?.[0] ?? 1;
  const place = ([at, value]: readonly [number, number]) =>
    `${((at - from) / Math.max(1, until - from)) * width},${(height - 2 - (value / most) * (height - 4)).toFixed(1)}`;
  const say = props.say ?? ((value: number) => value.toLocaleString());
  const now = say(points.at(-1)?.[1] ?? 0);
  const minutes = Math.max(1, Math.round((until - from) / 60_000));
  return (
    <figure class="plot">
      <figcaption><span>{props.title}</span><strong>{points.length ? now : "…"}</strong></figcaption>
      <svg viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" role="img" aria-label={`${props.title}: ${now} now, at most ${say(most)} in ${minutes} minutes`}>
        {points.length > 1 && <polygon points={`0,${height} ${points.map(place).join(" ")} ${width},${height}`} />}
        {points.length > 1 && <polyline points={points.map(place).join(" ")} />}
      </svg>
      <span class="quiet small">{points.length ? `the last ${minutes} min` : "nothing yet"}{props.since && `, ${props.since}`}</span>
    </figure>
  );
}
