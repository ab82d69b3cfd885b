// What would become of a job or a batch, told before it is sent: a dry run, asked when the reader's hands rest.
import { useEffect, useState } from "preact/hooks";
import { ask, may, post } from "../api";
import { plural, span } from "../words";
import { useAnswer } from "./basics";

/** Of a job `run_s` is its own, of a batch that of all its jobs together, which `ends_in_s` from now. */
interface Estimate { starts_in_s: number | null; run_s: number; expires: boolean; load_s?: number | null; ends_in_s?: number | null; reason?: string }
interface Report {
  accepted: boolean;
  runnable: boolean;
  problems: { error: { message: string } }[];
  gpus: { pool: string | null; gpus: number; can_run: "yes" | "once_fetched" | "no"; why_not: string[] }[];
  estimate: Estimate | null;
}
/** Each dry run is a request that counts for the reader's limits. */
const REST_MS = 600;

/** `body` null: there is nothing to be asked yet, and `lack` says what it needs. */
export function EstimateNote({ path, body, lack }: { path: string; body: unknown; lack: string }) {
  const [report, setReport] = useState<Report | null>(null);
  const [refusal, setRefusal] = useState("");
  const price = usePrice();
  const asked = body === null ? "" : JSON.stringify(body);
  useEffect(() => {
    setReport(null);
    setRefusal("");
    if (!asked || !may("submit")) return;
    let isOld = false;
    const timer = window.setTimeout(async () => {
      try {
        const found = await post<Report>(`${path}?dry_run=true`, JSON.parse(asked));
        if (!isOld) setReport(found);
      } catch (problem) {
        // What cannot be read as a job is answered as its submission would be.
        if (!isOld) setRefusal(problem instanceof Error ? problem.message : String(problem));
      }
    }, REST_MS);
    return () => {
      isOld = true;
      window.clearTimeout(timer);
    };
  }, [path, asked]);
  if (!may("submit")) return null;
  const reasons = refusal ? [refusal] : report ? reasonsOf(report) : [];
  const isRefused = reasons.length > 0;
  return (
    <div class={`estimate${isRefused ? " is-bad" : ""}`} role="status">
      {!asked && <p class="quiet">{lack}</p>}
      {asked && !report && !refusal && <p class="quiet">Asking what would become of it…</p>}
      {isRefused && <><p><strong>It would be refused.</strong></p><ul>{reasons.map((each) => <li key={each}>{each}</li>)}</ul></>}
      {!isRefused && report?.estimate && <Foretold estimate={report.estimate} price={price} />}
    </div>
  );
}

function Foretold({ estimate, price }: { estimate: Estimate; price: Price | null }) {
  const { starts_in_s, ends_in_s, load_s, run_s } = estimate;
  const begin = starts_in_s === null ? "No GPU takes it now" : starts_in_s < 0.5 ? "Begins at once" : `Begins in about ${span(starts_in_s)}`;
  const end = ends_in_s === undefined ? `, and runs about ${span(run_s)}` : ends_in_s === null ? "" : `, and is done in about ${span(ends_in_s)}`;
  const gpuS = run_s + (load_s ?? 0);
  return (
    <>
      <p><strong>{begin}{end}.</strong></p>
      <p class="small quiet">
        About {span(gpuS)} of GPU time{load_s ? `, of which models load ${span(load_s)}` : ""}
        {price && `, about ${money(gpuS * price.perGpuS, price.currency)} as GPUs cost in the last 30 days`}.
        {estimate.expires && " It would expire before a GPU takes it."} {estimate.reason}
      </p>
    </>
  );
}

/** Why a submission would be refused, or would wait for what nobody has. */
function reasonsOf(report: Report): string[] {
  const reasons = report.problems.map(({ error }) => error.message);
  if (report.runnable || reasons.length) return reasons;
  return report.gpus.flatMap(({ pool, gpus, why_not }) => why_not.map((why) => `${pool ? `Pool ${pool}` : "In no pool"}, ${plural(gpus, "GPU")}: ${why}`));
}

interface Price { perGpuS: number; currency: string }
interface Used { currency: string | null; total: { run_s: number; load_s: number; unpriced_s: number; cost: number | null } }

/** What a GPU second cost on the mean of the last 30 days; null without prices, and for keys that see no usage. */
function usePrice(): Price | null {
  const mayKnow = may("usage");
  const { answer } = useAnswer(async () => (mayKnow ? await ask<Used>("GET", "/api/v2/usage?by=tenant", undefined, { Accept: "application/json" }) : null), [mayKnow]);
  const pricedS = answer ? answer.total.run_s + answer.total.load_s - answer.total.unpriced_s : 0;
  if (!answer?.currency || !answer.total.cost || pricedS <= 0) return null;
  return { perGpuS: answer.total.cost / pricedS, currency: answer.currency };
}

function money(amount: number, currency: string): string {
  const digits = amount >= 1 ? 2 : 4;
  return `${amount.toLocaleString(undefined, { minimumFractionDigits: 2, maximumFractionDigits: digits })} ${currency}`;
}
