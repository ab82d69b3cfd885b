// One job: where its time went, what it made, how it was made, and what can be done with it.
import { useEffect, useState } from "preact/hooks";
import { get, isEnded, may, post, remove, type Delivery, type Job, type Output, type Progress } from "../api";
import { isVisible } from "../live";
import { Card, Deed, ErrorNote, Loading, ProgressLine, StatusBadge, useAnswer, When } from "../parts/basics";
import { Graph, type GraphJson } from "../parts/graph";
import { OutputView } from "../parts/outputs";
import { go, href } from "../route";
import { short, span, text } from "../words";

const KEPT_LINES = 500;

export function JobPage({ id }: { id: string }) {
  const path = `/api/v2/jobs/${encodeURIComponent(id)}`;
  const read = useAnswer(() => get<Job>(path), [id]);
  const live = useJobStream(id, read.answer !== null && !isEnded(read.answer.status) && isVisible.value, read.again);
  if (read.error && !read.answer) return <ErrorNote error={read.error} retry={read.again} />;
  const job = read.answer;
  if (!job) return <Loading what="the job" />;
  const progress = live.progress ?? job.progress;
  const outputs = [...new Map([...live.outputs, ...job.outputs].map((output) => [output.id ?? output.name, output])).values()];
  const rerun = async (body: unknown) => {
    const made = await post<Job>(`${path}/rerun`, body);
    go("jobs", made.id);
  };
  return (
    <>
      <div class="bar">
        <h2>Job <code>{short(id)}</code></h2>
        <StatusBadge status={job.status} />
        <span class="buttons">
          {!isEnded(job.status) && may("cancel") && <Deed kind="bad" act={() => post(`${path}/cancel`).then(read.again)}>Cancel</Deed>}
          {may("submit") && <Deed kind="main" act={() => rerun({})}>Again, new seed</Deed>}
          {may("submit") && <Deed act={() => rerun({ same_seed: true })}>Again, same seed</Deed>}
          {isEnded(job.status) && may("cancel") && <Deed kind="bad" confirm="Delete this job and its files, for good?" act={() => remove(path).then(() => go("jobs"))}>Delete</Deed>}
        </span>
      </div>
      {job.error && (
        <div class="note is-bad">
          <p><strong>{job.error.message}</strong></p>
          <p class="small"><code>{job.error.code}</code>{job.error.class_type && ` in ${job.error.class_type}, node ${job.error.node_id}`}</p>
          {job.error.traceback && <details><summary>Traceback</summary><pre tabIndex={0}>{job.error.traceback}</pre></details>}
        </div>
      )}
      {job.queue && <div class="note"><p>{job.queue.reason}</p><p class="quiet small">Place {job.queue.position ?? "–"}, begins in about {span(job.queue.starts_in_s)}.</p></div>}
      {!isEnded(job.status) && progress && <ProgressLine progress={progress} />}
      <div class="columns">
        <div>
          {live.preview && !isEnded(job.status) && <Card title="Preview"><img class="preview" src={live.preview} alt="What the sampler has so far" /></Card>}
          {outputs.length > 0 && <Card title="Outputs"><div class="outputs">{outputs.map((output) => <OutputView key={output.id ?? output.name} output={output} />)}</div></Card>}
          <Timeline job={job} />
          <GraphCard path={path} current={isEnded(job.status) ? null : progress?.current_node ?? null} failed={job.error?.node_id ?? null} />
        </div>
        <div>
          <Facts job={job} />
          <Events path={path} status={job.status} />
          <Log path={path} status={job.status} live={live.lines} />
          {may("webhooks") && <Deliveries path={path} status={job.status} />}
        </div>
      </div>
    </>
  );
}

interface Live { progress: Progress | null; preview: string | null; outputs: Output[]; lines: string[] }
const NOTHING: Live = { progress: null, preview: null, outputs: [], lines: [] };

/** What the job's own stream tells until its end; the browser goes on where it was when the stream breaks. */
function useJobStream(id: string, isRunning: boolean, again: () => void): Live {
  const [live, setLive] = useState(NOTHING);
  useEffect(() => setLive(NOTHING), [id]);
  useEffect(() => {
    if (!isRunning) return;
    const stream = new EventSource(`/api/v2/jobs/${encodeURIComponent(id)}/events`);
    const on = <T,>(name: string, take: (before: Live, data: T) => Live) =>
      stream.addEventListener(name, (event) => setLive((before) => take(before, JSON.parse((event as MessageEvent).data) as T)));
    on<Progress>("progress", (before, progress) => ({ ...before, progress }));
    on<{ content_type: string; data_base64: string }>("preview", (before, data) => ({ ...before, preview: `data:${data.content_type};base64,${data.data_base64}` }));
    on<Output>("output", (before, output) => ({ ...before, outputs: [...before.outputs, output] }));
    on<{ message: string }>("log", (before, { message }) => ({ ...before, lines: [...before.lines.slice(-KEPT_LINES), message] }));
    stream.addEventListener("status", again);
    return () => stream.close();
  }, [id, isRunning]);
  return live;
}

function Timeline({ job }: { job: Job }) {
  const waited = (job.metrics?.queue_ms ?? null) === null ? null : job.metrics!.queue_ms! / 1000;
  const time = job.gpu_time;
  const whole = job.completed_at ? (Date.parse(job.completed_at) - Date.parse(job.created_at)) / 1000 : null;
  const ran = (job.metrics?.execution_ms ?? 0) / 1000;
  const loaded = time ? Math.min(time.load_s, ran) : 0;
  const parts = ([["waited", waited ?? 0], ["loaded models", loaded], ["ran", ran - loaded], ["stored", whole === null ? 0 : Math.max(0, whole - (waited ?? 0) - ran)]] as [string, number][]).filter(([, seconds]) => seconds > 0);
  const sum = parts.reduce((before, [, seconds]) => before + seconds, 0);
  if (!job.started_at || sum === 0) return null;
  return (
    <Card title="Where the time went" aside={whole !== null && <span class="quiet small">{span(whole)} in all</span>}>
      <div class="timeline" role="img" aria-label={parts.map(([what, seconds]) => `${what} ${span(seconds)}`).join(", ")}>
        {parts.map(([what, seconds]) => <span key={what} class={`part part-${what.split(" ")[0]}`} style={{ flexGrow: seconds / sum }} />)}
      </div>
      <ul class="legend">{parts.map(([what, seconds]) => <li key={what}><span class={`swatch part-${what.split(" ")[0]}`} /> {what} {span(seconds)}</li>)}</ul>
      {time && time.lost_s > 0 && <p class="small">{span(time.lost_s)} of GPU time went into attempts that were lost.</p>}
    </Card>
  );
}

function Facts({ job }: { job: Job }) {
  const rows: [string, preact.ComponentChildren][] = [
    ["Id", <code>{job.id}</code>],
    ["Submitted", <When at={job.created_at} />],
    ["Began", <When at={job.started_at} />],
    ["Ended", <When at={job.completed_at} />],
    ["GPU", job.gpu ? `${job.gpu} (${job.instance})` : "–"],
    ["Attempt", job.attempt],
    ["Priority", job.priority],
  ];
  if (job.tenant) rows.push(["Tenant", job.tenant]);
  if (job.label) rows.push(["Label", <a href={href("jobs", null, { label: job.label })}>{job.label}</a>]);
  if (job.template) rows.push(["Template", <a href={href("playground", job.template)}>{job.template}</a>]);
  if (job.rerun_of) rows.push(["Again of", <a href={href("jobs", job.rerun_of)}>{short(job.rerun_of)}</a>]);
  const values = Object.entries({ ...job.parameters, ...job.batch?.varied });
  return (
    <Card title="Facts">
      <dl class="facts">{rows.map(([name, value]) => <><dt>{name}</dt><dd>{value}</dd></>)}</dl>
      {values.length > 0 && <><h3>Values</h3><dl class="facts">{values.map(([name, value]) => <><dt>{name}</dt><dd class="breaks">{text(value)}</dd></>)}</dl></>}
    </Card>
  );
}

function GraphCard({ path, current, failed }: { path: string; current: string | null; failed: string | null }) {
  const { answer, error } = useAnswer(() => get<{ workflow: GraphJson }>(`${path}/workflow`), [path]);
  if (error) return <ErrorNote error={error} />;
  return answer && <Card title="Graph"><Graph graph={answer.workflow} current={current} failed={failed} /></Card>;
}

interface JobEvent { seq: number; type: string; at: string; data: Record<string, unknown> }

function Events({ path, status }: { path: string; status: string }) {
  const { answer } = useAnswer(
    async () => (await (await fetch(`${path}/events`, { headers: { Accept: "application/json" }, credentials: "same-origin" })).json()) as { events: JobEvent[] },
    [path, status],
  );
  if (!answer?.events?.length) return null;
  return (
    <Card title="Events">
      <ol class="events">
        {answer.events.map((event) => (
          <li key={event.seq}><When at={event.at} /> <strong>{String(event.data.status ?? event.type)}</strong>{" "}
            <span class="quiet small">{[event.data.instance, event.data.code].filter(Boolean).join(" · ")}</span></li>
        ))}
      </ol>
    </Card>
  );
}

function Log({ path, status, live }: { path: string; status: string; live: string[] }) {
  const { answer } = useAnswer(() => get<{ text: string; truncated: boolean } | undefined>(`${path}/logs`), [path, status]);
  const lines = answer?.text?.trimEnd() || live.join("\n");
  if (!lines) return null;
  return <Card title="What ComfyUI printed"><pre class="log" tabIndex={0}>{answer?.truncated && "…\n"}{lines}</pre></Card>;
}

function Deliveries({ path, status }: { path: string; status: string }) {
  const { answer, again } = useAnswer(() => get<{ deliveries: Delivery[] }>(`${path}/deliveries`), [path, status]);
  if (!answer?.deliveries.length) return null;
  return (
    <Card title="Webhooks">
      <ul class="events">
        {answer.deliveries.map((each) => (
          <li key={each.id}>
            <span class={`badge is-${each.state}`}>{each.state}</span> {each.event} <span class="quiet small breaks">{each.url}, {each.tries} tries</span>{" "}
            {(each.state === "dead" || each.state === "delivered") && <Deed act={() => post(`/webhooks/deliveries/${encodeURIComponent(each.id)}/replay`).then(again)}>Send again</Deed>}
          </li>
        ))}
      </ul>
    </Card>
  );
}
