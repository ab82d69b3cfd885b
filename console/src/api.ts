// The public API, as this page's reader may use it: nothing here has a route of its own.
import { signal } from "@preact/signals";

export type Status = "queued" | "running" | "canceling" | "succeeded" | "failed" | "canceled" | "expired";
export const ENDED: readonly Status[] = ["succeeded", "failed", "canceled", "expired"];

export interface Session {
  asks_for_keys: boolean;
  is_signed_in: boolean;
  tenant: string | null;
  scopes: string[];
  sees_all: boolean;
}

export interface Progress {
  value: number;
  nodes_done: number;
  nodes_total: number;
  message: string;
  current_node?: string | null;
  remaining_s?: number | null;
}

export interface Output {
  id?: string;
  node_id: string;
  name: string;
  type: string;
  content_type: string;
  size_bytes: number;
  expired?: boolean;
}

export interface Job {
  id: string;
  status: Status;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  progress: Progress | null;
  outputs: Output[];
  error: { code: string; message: string; node_id?: string | null; class_type?: string | null; traceback?: string | null } | null;
  metrics: { queue_ms: number | null; execution_ms: number | null } | null;
  queue?: { position: number | null; starts_in_s: number | null; reason: string; reason_code: string };
  gpu_time?: { gpu_s: number; run_s: number; load_s: number; lost_s: number };
  label?: string | null;
  template?: string | null;
  parameters?: Record<string, unknown>;
  tenant?: string;
  priority: number;
  attempt: number;
  instance: string | null;
  gpu: string | null;
  rerun_of?: string;
  batch?: { id: string; index: number; varied: Record<string, unknown> };
  warnings?: { message: string }[];
}

export interface Gpu {
  name: string;
  host: string;
  state: string;
  reason: string | null;
  is_simulated: boolean;
  device: string | null;
  gpu_kind: string;
  vram_bytes: number | null;
  pool: string | null;
  version: string | null;
  job_id: string | null;
  free_in_s: number | null;
  models: { name: string; size_bytes: number | null }[];
  model_files: { path: string; state: string; size_bytes: number | null; done_bytes: number; bytes_per_s: number; left_s: number | null; error: string | null }[];
  loads_today: number;
  loading_s_today: number;
  lines: { priority: number; models: string[]; is_held: boolean; waiting: number; oldest_waits_s: number }[];
  lines_count: number;
  next: { job_id: string | null; in_s: number | null; reason: string };
  restarts: number;
}

export interface QueueInfo {
  preprocess_queue_size: number;
  generation_queue_size: number;
  postprocess_queue_size: number;
  estimated_wait_time: number | null;
  gpus: number;
}

export interface Delivery {
  id: string;
  event: string;
  state: string;
  url: string;
  tries: number;
  updated_at: string;
  next_try_at: string | null;
}

export interface ParameterSchema {
  type?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  minimum?: number;
  maximum?: number;
  multipleOf?: number;
  maxLength?: number;
  contentMediaType?: string;
}

export interface Template {
  name: string;
  title: string;
  description: string;
  parameters?: { properties: Record<string, ParameterSchema>; required?: string[] };
}

/** What the server said was wrong, or that it does not answer (`status` 0). */
export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

/** Whether the last request reached the server: the whole page says so when it did not. */
export const isOnline = signal(true);
export const session = signal<Session | null>(null);

export async function ask<T>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<T> {
  const init: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (body instanceof FormData) init.body = body;
  else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { ...headers, "Content-Type": "application/json" };
  }
  let answer: Response;
  try {
    answer = await fetch(path, init);
  } catch {
    isOnline.value = false;
    throw new ApiError(0, "offline", "The server does not answer.");
  }
  isOnline.value = true;
  if (answer.status === 204) return undefined as T;
  const text = await answer.text();
  let value: unknown = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    // A proxy's page: its status says enough.
  }
  if (!answer.ok) {
    const error = (value as { error?: { code?: string; message?: string } } | null)?.error;
    if (answer.status === 401 && session.value?.is_signed_in) session.value = { ...session.value, is_signed_in: false };
    throw new ApiError(answer.status, error?.code ?? "error", error?.message ?? `The server answered ${answer.status}.`);
  }
  return value as T;
}

export const get = <T>(path: string) => ask<T>("GET", path);
export const post = <T>(path: string, body?: unknown, headers?: Record<string, string>) => ask<T>("POST", path, body, headers);
export const remove = (path: string) => ask<void>("DELETE", path);

export async function readSession(): Promise<void> {
  session.value = await get<Session>("/api/v2/session");
}

export const may = (scope: string) => session.value?.scopes.includes(scope) ?? false;
export const isEnded = (status: Status) => ENDED.includes(status);
export const contentPath = (output: { id?: string }) => `/api/v2/assets/${encodeURIComponent(output.id ?? "")}/content`;
