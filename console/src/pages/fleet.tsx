// Every GPU, what waits, and what happened in the last hour.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, may, post, type Gpu, type Job, type Progress, type QueueInfo } from "../api";
import { listen } from "../live";
import { Card, Deed, Empty, ErrorNote, Loading, Meter, ProgressLine, useAnswer } from "../parts/basics";
import { Plot } from "../parts/plot";
import { href } from "../route";
import { bytes, plural, short, span } from "../words";

const LOOK_MS = 3000;
/** Tiles of a fleet beyond this are small. */
const MANY = 24;
const KEPT = 1200;

const HISTORY_MS = 30_000;

interface Sample { at: number; waiting: number; running: number; busy: number }
/** Of the server's history. */
interface Told { at: string; jobs_waiting: number; jobs_running: number; gpus: number; gpus_busy: number; wait_p95_s: number | null }

export function FleetPage() {
  const queue = useAnswer(() => get<QueueInfo>("/queue-info"), [], LOOK_MS);
  const isOperator = may("operate");
  const gpus = useAnswer(async () => (isOperator ? (await get<{ gpus: Gpu[] }>("/api/v2/gpus")).gpus : null), [isOperator], LOOK_MS);
  const progress = useProgress();
  const hour = useAnswer(async () => (isOperator ? (await get<{ samples: Told[] }>("/api/v2/history")).samples : []), [isOperator], HISTORY_MS).answer ?? [];
  const samples = withHour(hour, useSamples(queue.answer, gpus.answer, isOperator));
  const since = isOperator ? undefined : "since this page was opened";
  const [wanted, setWanted] = useState("");
  if (queue.error && !queue.answer) return <ErrorNote error={queue.error} retry={queue.again} />;
  const info = queue.answer;
  const found = (gpus.answer ?? []).filter((gpu) => `${gpu.name} ${gpu.pool ?? ""} ${gpu.state}`.includes(wanted.trim()));
  const states = countBy(gpus.answer ?? [], (gpu) => gpu.state);
  return (
    <>
      <div class="figures">
        <Figure label="waiting" value={info?.preprocess_queue_size} />
        <Figure label="running" value={info?.generation_queue_size} />
        <Figure label="being stored" value={info?.postprocess_queue_size} />
        <Figure label="healthy GPUs" value={info?.gpus} />
        <Figure label="until a new job would begin" value={info ? (info.estimated_wait_time === 0 ? "now" : span(info.estimated_wait_time)) : undefined} />
      </div>
      <div class="plots">
        <Plot title="Waiting" points={samples.map((each) => [each.at, each.waiting])} since={since} />
        <Plot title="Running" points={samples.map((each) => [each.at, each.running])} since={since} />
        {isOperator && <Plot title="GPUs at work" points={samples.map((each) => [each.at, each.busy])} most={1} say={(share) => `${Math.round(share * 100)} %`} />}
        {isOperator && <Plot title="Waited, 95 of 100 jobs" points={hour.flatMap((each) => (each.wait_p95_s === null ? [] : [[Date.parse(each.at), each.wait_p95_s] as const]))} say={span} />}
      </div>
      {!isOperator && <Empty title="GPUs are shown to operators"><p class="quiet">This key has no scope <code>operate</code>. Your jobs are under <a href={href("jobs")}>Jobs</a>.</p></Empty>}
      {gpus.error !== null && <ErrorNote error={gpus.error} retry={gpus.again} />}
      {isOperator && !gpus.answer && !gpus.error && <Loading what="GPUs" />}
      {isOperator && gpus.answer?.length === 0 && <Empty title="No GPU has reported yet"><p class="quiet">Start a worker with <code>comfyline gpu</code>, or all of it with <code>comfyline up</code>.</p></Empty>}
      {gpus.answer && gpus.answer.length > 0 && (
        <>
          <div class="bar">
            <h2>{plural(gpus.answer.length, "GPU")}</h2>
            <span class="quiet">{Object.entries(states).map(([state, count]) => `${count} ${state}`).join(" · ")}</span>
            <input type="search" aria-label="Find GPUs" placeholder="Name, pool or state" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} />
          </div>
          <div class={`tiles${gpus.answer.length > MANY ? " is-many" : ""}`}>
            {found.map((gpu) => <Tile key={gpu.name} gpu={gpu} progress={gpu.job_id ? progress[gpu.job_id] : undefined} again={gpus.again} />)}
          </div>
          <Lines gpus={gpus.answer} />
        </>
      )}
    </>
  );
}

function Figure({ label, value }: { label: string; value: number | string | undefined }) {
  return <div class="figure"><span class="figure-value">{value === undefined ? "…" : typeof value === "number" ? value.toLocaleString() : value}</span><span class="quiet small">{label}</span></div>;
}

function Tile({ gpu, progress, again }: { gpu: Gpu; progress: Progress | undefined; again: () => void }) {
  const order = (what: string) => async () => {
    await post(`/api/v2/gpus/${encodeURIComponent(gpu.name)}/${what}`);
    again();
  };
  const takesNone = gpu.state !== "healthy";
  return (
    <article class={`tile is-${gpu.state}`}>
      <header>
        <strong>{gpu.name}</strong>
        <span class={`badge is-${gpu.state}`}>{gpu.state}</span>
        {gpu.is_simulated && <span class="badge is-simulated">SIMULATED</span>}
      </header>
      <p class="quiet small cut" title={gpu.device ?? ""}>{[gpu.pool && `pool ${gpu.pool}`, gpu.device ?? gpu.gpu_kind, gpu.vram_bytes && bytes(gpu.vram_bytes)].filter(Boolean).join(" · ")}</p>
      {gpu.job_id ? (
        <div class="tile-job">
          <a href={href("jobs", gpu.job_id)}>Job {short(gpu.job_id)}</a>
          {progress ? <ProgressLine progress={progress} /> : <span class="quiet small">at work{gpu.free_in_s != null && `, free in about ${span(gpu.free_in_s)}`}</span>}
        </div>
      ) : <p class="small">{takesNone ? gpu.reason ?? "It takes no jobs." : gpu.next.reason}</p>}
      {gpu.models.length > 0 && <p class="small tile-more" title={gpu.models.map((model) => model.name).join("\n")}><span class="quiet">Holds</span> {gpu.models.slice(0, 3).map((model) => model.name).join(", ")}{gpu.models.length > 3 && ` and ${gpu.models.length - 3} more`}</p>}
      {gpu.model_files.map((file) => (
        <p class="small tile-more" key={file.path}>
          <span class="quiet">{file.state === "failed" ? "Could not fetch" : "Fetches"}</span> {file.path}
          {file.state === "fetching" && file.size_bytes ? <Meter value={file.done_bytes / file.size_bytes} label={file.path} /> : null}
          {file.error && <span class="bad"> {file.error}</span>}
        </p>
      ))}
      <footer class="tile-more">
        <span class="quiet small">{plural(gpu.loads_today, "load")} today, {span(gpu.loading_s_today)}{gpu.restarts > 0 && ` · ${plural(gpu.restarts, "restart")}`}</span>
        {may("operate") && (
          <span class="buttons">
            {gpu.state === "healthy" || gpu.state === "starting" ? <Deed act={order("drain")}>Drain</Deed> : <Deed act={order("resume")}>Resume</Deed>}
            <Deed act={order("restart")} confirm={`Restart the ComfyUI of ${gpu.name} when its job is done?`}>Restart</Deed>
          </span>
        )}
      </footer>
    </article>
  );
}

/** What waits, in lines of one priority and the same models, each once however many GPUs can run it. */
function Lines({ gpus }: { gpus: Gpu[] }) {
  const lines = new Map<string, Gpu["lines"][number] & { holders: number }>();
  for (const gpu of gpus) {
    for (const line of gpu.lines) {
      const key = `${line.priority} ${line.models.join(" ")}`;
      const known = lines.get(key);
      const holders = (known?.holders ?? 0) + (line.is_held ? 1 : 0);
      lines.set(key, { ...line, waiting: Math.max(line.waiting, known?.waiting ?? 0), holders });
    }
  }
  if (lines.size === 0) return null;
  return (
    <Card title="What waits">
      <div class="wide"><table>
        <thead><tr><th>Models</th><th class="number">Priority</th><th class="number">Jobs</th><th class="number">Oldest waits</th><th class="number">GPUs that hold them</th></tr></thead>
        <tbody>
          {[...lines.values()].sort((one, other) => other.priority - one.priority || other.oldest_waits_s - one.oldest_waits_s).slice(0, 50).map((line) => (
            <tr key={`${line.priority} ${line.models.join(" ")}`}>
              <td>{line.models.join(", ") || "none"}</td><td class="number">{line.priority}</td><td class="number">{line.waiting.toLocaleString()}</td>
              <td class="number">{span(line.oldest_waits_s)}</td><td class="number">{line.holders}</td>
            </tr>
          ))}
        </tbody>
      </table></div>
    </Card>
  );
}

/** How far each running job is, as its stream tells. */
function useProgress(): Record<string, Progress> {
  const [progress, setProgress] = useState<Record<string, Progress>>({});
  useEffect(() => listen((news) => {
    if (news.kind === "progress") setProgress((before) => ({ ...before, [news.id]: news.progress }));
    if (news.kind === "job" && isOver(news.job)) setProgress(({ [news.job.id]: _over, ...rest }) => rest);
  }), []);
  return progress;
}

const isOver = (job: Job) => job.completed_at !== null;

/** What was seen since the page was opened: kept while other pages are looked at. */
const kept: Sample[] = [];

function useSamples(queue: QueueInfo | null, gpus: Gpu[] | null, isOperator: boolean): Sample[] {
  const last = useRef<QueueInfo | null>(null);
  // Before the first look at the GPUs nobody knows how many work.
  if (queue && queue !== last.current && (gpus || !isOperator)) {
    last.current = queue;
    const busy = gpus?.length ? gpus.filter((gpu) => gpu.job_id).length / gpus.length : 0;
    kept.push({ at: Date.now(), waiting: queue.preprocess_queue_size, running: queue.generation_queue_size, busy });
    if (kept.length > KEPT) kept.shift();
  }
  return kept;
}

/** The hour that the server tells of, and what this page has seen since its last sample. */
function withHour(hour: Told[], seen: Sample[]): Sample[] {
  const told = hour.map((each) => ({ at: Date.parse(each.at), waiting: each.jobs_waiting, running: each.jobs_running, busy: each.gpus ? each.gpus_busy / each.gpus : 0 }));
  const last = told.at(-1)?.at ?? 0;
  return [...told, ...seen.filter((each) => each.at > last)];
}

function countBy<T>(items: T[], keyOf: (item: T) => string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const item of items) counts[keyOf(item)] = (counts[keyOf(item)] ?? 0) + 1;
  return counts;
}
