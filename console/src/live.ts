// The stream of all jobs' news, once for the whole page; whoever shows jobs listens.
import { signal } from "@preact/signals";
import type { Job, Progress } from "./api";

export type News =
  | { kind: "job"; job: Job }
  | { kind: "progress"; id: string; progress: Progress }
  /** More has happened than was told, or the stream broke: read again what is shown. */
  | { kind: "again" };

type Listener = (news: News) => void;
const listeners = new Set<Listener>();
const tell = (news: News) => listeners.forEach((listener) => listener(news));

export const isLive = signal(false);
/** Browsers open six connections to a server at most, for all its tabs together: one that nobody sees holds none. */
export const isVisible = signal(!document.hidden);
document.addEventListener("visibilitychange", () => {
  isVisible.value = !document.hidden;
});
let stream: EventSource | null = null;
let retry: number | undefined;
let wasConnected = false;

export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function connect(): void {
  if (stream) return;
  const opened = new EventSource("/api/v2/events");
  stream = opened;
  // What happened while nobody listened is read again.
  let hadBroken = wasConnected;
  wasConnected = true;
  opened.onopen = () => {
    isLive.value = true;
    if (hadBroken) tell({ kind: "again" });
    hadBroken = false;
  };
  opened.onerror = () => {
    isLive.value = false;
    hadBroken = true;
    if (opened.readyState !== EventSource.CLOSED) return;
    // The browser gives up on an answer that is no stream, as a proxy gives while the API starts.
    disconnect();
    retry = window.setTimeout(connect, 2000);
  };
  opened.addEventListener("job", (event) => tell({ kind: "job", job: JSON.parse(event.data) as Job }));
  opened.addEventListener("missed", () => tell({ kind: "again" }));
  opened.addEventListener("progress", (event) => {
    const progress = JSON.parse(event.data) as Progress & { id: string };
    tell({ kind: "progress", id: progress.id, progress });
  });
}

export function disconnect(): void {
  window.clearTimeout(retry);
  stream?.close();
  stream = null;
  isLive.value = false;
}
