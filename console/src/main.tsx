// The console: one page, whose parts are chosen by the address after its `#`.
import { signal } from "@preact/signals";
import { render } from "preact";
import { useEffect } from "preact/hooks";
import { isOnline, may, readSession, remove, session } from "./api";
import { connect, disconnect, isLive, isVisible } from "./live";
import { Empty, ErrorNote, Loading } from "./parts/basics";
import { BatchesPage, BatchPage } from "./pages/batches";
import { FleetPage } from "./pages/fleet";
import { GalleryPage } from "./pages/gallery";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { HealthPage, KeysPage, ModelsPage, UsagePage, WebhooksPage } from "./pages/operate";
import { PlaygroundPage } from "./pages/playground";
import { SignInPage } from "./pages/signin";
import { href, route } from "./route";
import "./style.css";

/** Each with the scope that a key needs to see anything there. */
const PAGES: [string, string, string][] = [
  ["fleet", "Fleet", "read"], ["jobs", "Jobs", "read"], ["batches", "Batches", "read"], ["gallery", "Gallery", "read"],
  ["playground", "Playground", "read"], ["webhooks", "Webhooks", "webhooks"], ["models", "Models", "models"],
  ["usage", "Usage", "usage"], ["keys", "Keys", "admin"], ["health", "Health", "read"],
];
const failed = signal<unknown>(null);

async function begin(): Promise<void> {
  try {
    await readSession();
    failed.value = null;
  } catch (problem) {
    failed.value = problem;
  }
}

function Console() {
  const known = session.value;
  useEffect(() => {
    if (known?.is_signed_in && isVisible.value) connect();
    else disconnect();
  }, [known?.is_signed_in, isVisible.value]);
  if (!known) return <main class="sign-in">{failed.value ? <ErrorNote error={failed.value} retry={() => void begin()} /> : <Loading what="the console" />}</main>;
  if (!known.is_signed_in) return <SignInPage />;
  const { page, id } = route.value;
  const title = PAGES.find(([name]) => name === page)?.[1] ?? "Not found";
  document.title = `${title} · Comfyline`;
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to content</a>
      <header class="top">
        <a class="brand" href={href("fleet")}><img src="/console/mark.svg" alt="" width="24" height="24" /> Comfyline</a>
        <nav aria-label="Pages">{PAGES.filter(([, , scope]) => may(scope)).map(([name, words]) => <a key={name} href={href(name)} aria-current={name === page ? "page" : undefined}>{words}</a>)}</nav>
        <span class="top-end">
          <span class={`live${isLive.value ? " is-live" : ""}`} role="status" title={isLive.value ? "News arrive as they happen." : "Connecting…"}>{isLive.value ? "live" : "connecting"}</span>
          <a class="small" href="/docs">API</a>
          <ThemeButton />
          {known.asks_for_keys && <button type="button" class="link" onClick={() => void remove("/api/v2/session").then(begin)}>Sign out {known.tenant}</button>}
        </span>
      </header>
      {!isOnline.value && <div class="note is-bad offline" role="alert"><p>The server does not answer. What is shown may be old; this page tries again by itself.</p></div>}
      <main id="main" tabIndex={-1}>
        <h1 class="hidden">{title}</h1>
        {page === "fleet" && <FleetPage />}
        {page === "jobs" && (id ? <JobPage key={id} id={id} /> : <JobsPage />)}
        {page === "batches" && (id ? <BatchPage key={id} id={id} /> : <BatchesPage />)}
        {page === "gallery" && <GalleryPage />}
        {page === "playground" && <PlaygroundPage />}
        {page === "webhooks" && <WebhooksPage />}
        {page === "models" && <ModelsPage />}
        {page === "usage" && <UsagePage />}
        {page === "keys" && <KeysPage />}
        {page === "health" && <HealthPage />}
        {title === "Not found" && <Empty title="There is no such page"><p><a href={href("fleet")}>To the fleet</a></p></Empty>}
      </main>
    </div>
  );
}

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];
const theme = signal<Theme>((localStorage.getItem("theme") as Theme | null) ?? "auto");

function ThemeButton() {
  const next = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]!;
  const change = () => {
    theme.value = next;
    localStorage.setItem("theme", next);
    applyTheme();
  };
  return <button type="button" class="link" onClick={change} aria-label={`Colours: ${theme.value}; change to ${next}`}>{{ auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[theme.value]}</button>;
}

function applyTheme(): void {
  document.documentElement.dataset.theme = theme.value;
}

applyTheme();
void begin();
render(<Console />, document.getElementById("console")!);
