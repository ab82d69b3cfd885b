// Batches: what they are made of, how they fill, and what can be done with one.
import { useEffect, useState } from "preact/hooks";
import { get, may, post, type Template } from "../api";
import { listen } from "../live";
import { Card, Deed, Empty, ErrorNote, Loading, Meter, StatusBadge, useAnswer, When } from "../parts/basics";
import { EstimateNote } from "../parts/estimate";
import { go, href } from "../route";
import { plural, short, span, text } from "../words";

interface Listed { id: string; status: string; label: string | null; total: number; counts: Record<string, number>; progress: number; created_at: string; completed_at: string | null; tenant?: string }
interface Batch extends Listed {
  time_left_s: number | null;
  errors: { code: string; message: string; count: number; job_ids: string[] }[];
  over: { name: string; count: number; values: unknown[] }[] | null;
  max_running: number | null;
}
const LOOK_MS = 5000;
const SHEET_MS = 10_000;
const MOST_JOBS = 10_000;

export function BatchesPage() {
  const { answer, error, again } = useAnswer(() => get<{ batches: Listed[]; next_cursor: string | null }>("/api/v2/batches?limit=100"), [], LOOK_MS);
  const [isMaking, setMaking] = useState(false);
  if (error && !answer) return <ErrorNote error={error} retry={again} />;
  if (!answer) return <Loading what="batches" />;
  return (
    <>
      <div class="bar"><h2>{plural(answer.batches.length, "batch", "batches")}</h2>{may("submit") && <span class="buttons"><button type="button" class="is-main" onClick={() => setMaking(!isMaking)}>{isMaking ? "Close" : "New batch"}</button></span>}</div>
      {isMaking && <NewBatch />}
      {answer.batches.length === 0 && !isMaking && <Empty title="No batches yet"><p class="quiet">A batch is one template or graph with values that vary: a hundred seeds, say.</p></Empty>}
      {answer.batches.length > 0 && (
        <div class="card wide"><table>
          <thead><tr><th>Batch</th><th>Status</th><th>Progress</th><th class="number">Jobs</th><th class="number">Failed</th><th>Made</th></tr></thead>
          <tbody>{answer.batches.map((batch) => (
            <tr key={batch.id}>
              <td><a href={href("batches", batch.id)}>{batch.label ?? short(batch.id)}</a></td><td><StatusBadge status={batch.status} /></td>
              <td><Meter value={batch.progress} label="Progress" /></td><td class="number">{batch.total.toLocaleString()}</td>
              <td class="number">{((batch.counts.failed ?? 0) + (batch.counts.expired ?? 0)).toLocaleString()}</td><td><When at={batch.created_at} /></td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
    </>
  );
}

export function BatchPage({ id }: { id: string }) {
  const path = `/api/v2/batches/${encodeURIComponent(id)}`;
  const { answer: batch, error, again } = useAnswer(() => get<Batch>(path), [id], LOOK_MS);
  const [sheetAt, setSheetAt] = useState(0);
  const [page, setPage] = useState(1);
  const isOver = batch?.status === "completed";
  useEffect(() => {
    if (isOver) return;
    const timer = window.setInterval(() => setSheetAt(Date.now()), SHEET_MS);
    return () => window.clearInterval(timer);
  }, [id, isOver]);
  useEffect(() => listen((news) => {
    if (news.kind === "job" && news.job.batch?.id === id && news.job.completed_at) again();
  }), [id]);
  const pages = useAnswer(async () => {
    const answer = await fetch(`${path}/sheet.webp?cell=160`, { method: "HEAD", credentials: "same-origin" });
    return Number(answer.headers.get("Sheet-Pages") ?? "1") || 1;
  }, [id, batch?.total]);
  if (error && !batch) return <ErrorNote error={error} retry={again} />;
  if (!batch) return <Loading what="the batch" />;
  const order = (what: string) => () => post(`${path}/${what}`).then(again);
  const hasFailed = (batch.counts.failed ?? 0) + (batch.counts.expired ?? 0) > 0;
  return (
    <>
      <div class="bar">
        <h2>{batch.label ?? <>Batch <code>{short(id)}</code></>}</h2><StatusBadge status={batch.status} />
        <span class="buttons">
          {batch.status === "running" && may("cancel") && <Deed act={order("pause")}>Pause</Deed>}
          {batch.status === "paused" && may("cancel") && <Deed kind="main" act={order("resume")}>Resume</Deed>}
          {hasFailed && may("submit") && <Deed act={order("retry")}>Retry the failed</Deed>}
          {!isOver && may("cancel") && <Deed kind="bad" confirm={`Cancel ${plural(batch.total, "job")}?`} act={order("cancel")}>Cancel</Deed>}
          <a class="button" href={`${path}/outputs.zip`} download>All outputs</a>
          <a class="button" href={`${path}/table.csv`} download>Table</a>
        </span>
      </div>
      <Meter value={batch.progress} label="Progress" />
      <p class="quiet small">
        {Math.round(batch.progress * 100)} % of {plural(batch.total, "job")}
        {!isOver && batch.time_left_s != null && `, about ${span(batch.time_left_s)} left`}
        {" · "}{Object.entries(batch.counts).filter(([, count]) => count > 0).map(([status, count]) => `${count.toLocaleString()} ${status}`).join(" · ")}
      </p>
      {batch.errors.length > 0 && (
        <Card title="Why jobs failed"><ul class="events">{batch.errors.map((each) => (
          <li key={`${each.code} ${each.message}`}><strong>{each.count} ×</strong> <code>{each.code}</code> {each.message} {each.job_ids.slice(0, 3).map((job) => <a class="small" key={job} href={href("jobs", job)}>{short(job)} </a>)}</li>
        ))}</ul></Card>
      )}
      {batch.over && <Card title="What varies"><dl class="facts">{batch.over.map((each) => <><dt>{each.name}</dt><dd class="breaks">{plural(each.count, "value")}: {each.values.slice(0, 12).map(text).join(", ")}{each.count > 12 && " …"}</dd></>)}</dl></Card>}
      <Card title="Contact sheet" aside={(pages.answer ?? 1) > 1 && (
        <span class="buttons small"><button type="button" disabled={page <= 1} onClick={() => setPage(page - 1)}>Before</button> {page} of {pages.answer} <button type="button" disabled={page >= (pages.answer ?? 1)} onClick={() => setPage(page + 1)}>Next</button></span>
      )}>
        <div class="wide"><img class="sheet" src={`${path}/sheet.webp?cell=160&page=${page}${isOver ? "" : `&at=${sheetAt}`}`} alt={`The pictures of this batch, page ${page}`} /></div>
      </Card>
    </>
  );
}

function NewBatch() {
  const templates = useAnswer(() => get<{ workflows: Template[] }>("/workflows"), []);
  const [name, setName] = useState("");
  const schema = useAnswer(async () => (name ? get<Template>(`/workflows/${encodeURIComponent(name)}`) : null), [name]);
  const [values, setValues] = useState<Record<string, string>>({});
  const [over, setOver] = useState<Record<string, string>>({});
  const [label, setLabel] = useState("");
  const properties = schema.answer?.parameters?.properties ?? {};
  const varied = Object.entries(over).filter(([, words]) => words.trim() !== "");
  const counts = varied.map(([key, words]) => countOf(valuesOf(words, properties[key]?.type)));
  const jobs = counts.reduce((product, count) => product * count, varied.length ? 1 : 0);
  const isMakeable = name !== "" && jobs > 0 && jobs <= MOST_JOBS;
  const make = async () => {
    const made = await post<Listed>("/api/v2/batches", body(), { "Idempotency-Key": crypto.randomUUID() });
    go("batches", made.id);
  };
  const body = () => {
    const parameters = Object.fromEntries(Object.entries(values).filter(([key, words]) => words !== "" && !over[key]?.trim()).map(([key, words]) => [key, typed(words, properties[key]?.type)]));
    return { template: name, parameters, over: Object.fromEntries(varied.map(([key, words]) => [key, valuesOf(words, properties[key]?.type)])), ...(label && { label }) };
  };
  return (
    <Card title="New batch">
      <div class="form">
        <div class="field"><label htmlFor="batch-template">Template</label>
          <select id="batch-template" value={name} onChange={(event) => { setName(event.currentTarget.value); setOver({}); setValues({}); }}>
            <option value="">choose</option>{(templates.answer?.workflows ?? []).map((each) => <option key={each.name} value={each.name}>{each.title || each.name}</option>)}
          </select></div>
        {Object.keys(properties).length > 0 && (
          <div class="wide"><table>
            <thead><tr><th>Value</th><th>for all jobs</th><th>or varied: <code>1..100</code>, or lines of values</th></tr></thead>
            <tbody>{Object.entries(properties).map(([key, each]) => (
              <tr key={key}>
                <td>{key}</td>
                <td><input aria-label={`${key} for all jobs`} placeholder={each.default === undefined ? "" : text(each.default)} value={values[key] ?? ""} disabled={!!over[key]?.trim()} onInput={(event) => setValues({ ...values, [key]: event.currentTarget.value })} /></td>
                <td><textarea aria-label={`${key}, varied`} rows={1} value={over[key] ?? ""} onInput={(event) => setOver({ ...over, [key]: event.currentTarget.value })} /></td>
              </tr>
            ))}</tbody>
          </table></div>
        )}
        <div class="field"><label htmlFor="batch-label">Label</label><input id="batch-label" maxLength={128} value={label} onInput={(event) => setLabel(event.currentTarget.value)} /></div>
        <p>{varied.length === 0 ? "Vary at least one value." : `${plural(jobs, "job")}: ${counts.join(" × ")}`}{jobs > MOST_JOBS && <span class="bad"> A batch has at most {MOST_JOBS.toLocaleString()} jobs.</span>}</p>
        <EstimateNote path="/api/v2/batches" body={isMakeable ? body() : null} lack="What it would take is told here." />
        <Deed kind="main" disabled={!isMakeable} act={make}>Make {plural(jobs, "job")}</Deed>
      </div>
    </Card>
  );
}

const RANGE = /^\s*-?\d+(\.\d+)?\.\.-?\d+(\.\d+)?(\.\.\d+(\.\d+)?)?\s*$/;

/** A range goes as it is, for the server knows it; anything else is one value a line. */
function valuesOf(words: string, type: string | undefined): string | unknown[] {
  if (RANGE.test(words)) return words.trim();
  return words.split("\n").filter((line) => line.trim() !== "").map((line) => typed(line, type));
}

function typed(words: string, type: string | undefined): unknown {
  if (type === "boolean") return words.trim() === "true";
  const number = Number(words);
  return (type === "integer" || type === "number") && words.trim() !== "" && Number.isFinite(number) ? number : words;
}

function countOf(values: string | unknown[]): number {
  if (typeof values !== "string") return values.length;
  const [from = 0, to = 0, step = 1] = values.split("..").map(Number);
  return Math.max(0, Math.floor((to - from) / (step || 1) + 1e-9) + 1);
}
