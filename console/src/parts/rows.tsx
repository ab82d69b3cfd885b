// A list of any length, of which the page holds the rows that can be seen.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

const SPARE = 12;

export function Rows<T>(props: {
  items: T[];
  height: number;
  keyOf: (item: T) => string;
  row: (item: T) => ComponentChildren;
  /** Called when the end comes near; not again before there are more. */
  onEnd?: () => void;
  label: string;
}) {
  const { items, height } = props;
  const box = useRef<HTMLDivElement>(null);
  const [seen, setSeen] = useState({ first: 0, count: 40 });
  const asked = useRef(-1);
  const look = () => {
    const element = box.current;
    if (!element) return;
    const first = Math.max(0, Math.floor(element.scrollTop / height) - SPARE);
    const count = Math.ceil(element.clientHeight / height) + 2 * SPARE;
    setSeen((before) => (before.first === first && before.count === count ? before : { first, count }));
    if (first + count >= items.length && asked.current !== items.length) {
      asked.current = items.length;
      props.onEnd?.();
    }
  };
  useEffect(look, [items.length]);
  useEffect(() => {
    addEventListener("resize", look);
    return () => removeEventListener("resize", look);
  }, [items.length]);
  const shown = items.slice(seen.first, seen.first + seen.count);
  return (
    <div class="rows" ref={box} onScroll={look} tabIndex={0} role="list" aria-label={props.label}>
      <div class="rows-space" style={{ height: `${items.length * height}px` }}>
        <div style={{ transform: `translateY(${seen.first * height}px)` }}>
          {shown.map((item) => (
            <div class="row" role="listitem" key={props.keyOf(item)} style={{ height: `${height}px` }}>{props.row(item)}</div>
          ))}
        </div>
      </div>
    </div>
  );
}
