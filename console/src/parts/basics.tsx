// Small parts that every page is made of.
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, type Progress, type Status } from "../api";
import { moment, span, wholeMoment } from "../words";

export function StatusBadge({ status }: { status: Status | string }) {
  return <span class={`badge is-${status}`}>{status}</span>;
}

export function When({ at }: { at: string | null | undefined }) {
  return at ? <time dateTime={at} title={wholeMoment(at)}>{moment(at)}</time> : <span class="quiet">–</span>;
}

export function Meter({ value, label }: { value: number; label: string }) {
  const share = Math.max(0, Math.min(1, value));
  return (
    <span class="meter" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(share * 100)}>
      <span class="meter-fill" style={{ width: `${share * 100}%` }} />
    </span>
  );
}

export function ProgressLine({ progress }: { progress: Progress }) {
  return (
    <div class="progress-line">
      <Meter value={progress.value} label="Progress" />
      <span class="quiet small">
        {Math.round(progress.value * 100)} % · {progress.message}
        {progress.remaining_s != null && ` · ${span(progress.remaining_s)} left`}
      </span>
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

export function Loading({ what }: { what: string }) {
  return <div class="empty" role="status" aria-live="polite"><span class="spinner" aria-hidden="true" /> Loading {what}…</div>;
}

export function ErrorNote({ error, retry }: { error: unknown; retry?: () => void }) {
  const words = error instanceof Error ? error.message : String(error);
  const code = error instanceof ApiError && error.status ? `${error.status} ${error.code}` : null;
  return (
    <div class="note is-bad" role="alert">
      <p>{words}</p>
      <p class="small">
        {code && <code>{code}</code>} {retry && <button type="button" class="link" onClick={retry}>Try again</button>}
      </p>
    </div>
  );
}

export function Card({ title, aside, children }: { title?: ComponentChildren; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section class="card">
      {title && <header class="card-head"><h2>{title}</h2>{aside}</header>}
      {children}
    </section>
  );
}

/** A button whose deed takes a moment and may fail; one that cannot be undone asks first. */
export function Deed(props: { children: ComponentChildren; act: () => Promise<unknown>; confirm?: string; kind?: "main" | "bad"; disabled?: boolean }) {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const act = async () => {
    if (props.confirm && !window.confirm(props.confirm)) return;
    setBusy(true);
    setError(null);
    try {
      await props.act();
    } catch (problem) {
      setError(problem);
    }
    setBusy(false);
  };
  return (
    <span class="deed">
      <button type="button" class={props.kind ? `is-${props.kind}` : undefined} disabled={isBusy || props.disabled} onClick={act}>
        {props.children}
      </button>
      {error !== null && <span class="deed-error" role="alert">{error instanceof Error ? error.message : String(error)}</span>}
    </span>
  );
}

/** Read something now, when what it depends on changes, and every so often; the last answer stays while a new one comes. */
export function useAnswer<T>(read: () => Promise<T>, dependencies: unknown[], everyMs?: number) {
  const [answer, setAnswer] = useState<T | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [turn, setTurn] = useState(0);
  const asked = useRef(0);
  useEffect(() => {
    setAnswer(null);
  }, dependencies);
  useEffect(() => {
    const number = ++asked.current;
    const look = async () => {
      try {
        const found = await read();
        if (number === asked.current) {
          setAnswer(found);
          setError(null);
        }
      } catch (problem) {
        if (number === asked.current) setError(problem);
      }
    };
    void look();
    if (!everyMs) return;
    const timer = window.setInterval(() => {
      if (!document.hidden) void look();
    }, everyMs);
    return () => window.clearInterval(timer);
  }, [...dependencies, turn]);
  return { answer, error, again: () => setTurn((before) => before + 1), setAnswer };
}
