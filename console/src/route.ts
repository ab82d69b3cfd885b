// Where the reader is: `#/jobs/ID?status=failed`. The server knows one page, so that no route of the API is taken.
import { computed, signal } from "@preact/signals";

const hash = signal(location.hash);
addEventListener("hashchange", () => {
  hash.value = location.hash;
});

export const route = computed(() => {
  const [path = "", query = ""] = hash.value.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map(decodeURIComponent);
  return { page: parts[0] || "fleet", id: parts[1] ?? null, query: new URLSearchParams(query) };
});

export function href(page: string, id?: string | null, query: Record<string, string> = {}): string {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${page}${id ? `/${encodeURIComponent(id)}` : ""}${text ? `?${text}` : ""}`;
}

/** Change what the address says of the same page, without a step back in the browser's history. */
export function refine(query: Record<string, string>): void {
  history.replaceState(null, "", href(route.value.page, route.value.id, query));
  hash.value = location.hash;
}

export function go(page: string, id?: string | null, query: Record<string, string> = {}): void {
  location.hash = href(page, id, query);
}
