// The list of jobs: found by what is known of them, live, and as long as there are any.
import { useEffect, useRef, useState } from "preact/hooks";
import { get, session, type Job } from "../api";
import { listen } from "../live";
import { Empty, ErrorNote, Loading, ProgressLine, StatusBadge, When } from "../parts/basics";
import { Rows } from "../parts/rows";
import { href, refine, route } from "../route";
import { plural, short, span } from "../words";

const STATUSES = ["queued", "running", "succeeded", "failed", "canceled", "expired"];
const PAGE = 100;
const ROW_PX = 52;

interface Page { jobs: Job[]; next_cursor: string | null }

export function JobsPage() {
  const query = Object.fromEntries(route.value.query);
  const filter = filterOf(query);
  const list = useJobs(filter);
  const set = (name: string, value: string) => refine({ ...query, [name]: value });
  return (
    <div class="page-fill">
      <form class="bar" role="search" onSubmit={(event) => event.preventDefault()}>
        <div class="chips" role="group" aria-label="Status">
          <button type="button" aria-pressed={!query.status} onClick={() => set("status", "")}>all</button>
          {STATUSES.map((status) => <button type="button" key={status} aria-pressed={query.status === status} onClick={() => set("status", status)}>{status}</button>)}
        </div>
        <input type="search" aria-label="Label" placeholder="Label" value={query.label ?? ""} onChange={(event) => set("label", event.currentTarget.value.trim())} />
        <input type="search" aria-label="Template" placeholder="Template" value={query.template ?? ""} onChange={(event) => set("template", event.currentTarget.value.trim())} />
        <input type="search" aria-label="Words of the error" placeholder="Error" value={query.error ?? ""} onChange={(event) => set("error", event.currentTarget.value.trim())} />
        <input type="search" aria-label="Beginning of the id" placeholder="Id begins with" value={query.id ?? ""} onChange={(event) => set("id", event.currentTarget.value.trim())} />
        <label class="small">since <input type="datetime-local" value={query.since ?? ""} onChange={(event) => set("since", event.currentTarget.value)} /></label>
      </form>
      {list.error !== null && <ErrorNote error={list.error} retry={list.again} />}
      {list.jobs === null && list.error === null && <Loading what="jobs" />}
      {list.jobs?.length === 0 && <Empty title="No jobs here"><p class="quiet">{filter ? "None is as you asked." : <>Send one from the <a href={href("playground")}>playground</a>, or with <code>comfyline submit</code>.</>}</p></Empty>}
      {list.jobs && list.jobs.length > 0 && (
        <>
          <Rows items={list.jobs} height={ROW_PX} keyOf={(job) => job.id} row={(job) => <JobRow job={job} />} onEnd={list.more} label="Jobs" />
          <p class="quiet small">{plural(list.jobs.length, "job")} read{list.hasMore ? "; scroll for older ones" : ", and these are all"}.</p>
        </>
      )}
    </div>
  );
}

function JobRow({ job }: { job: Job }) {
  return (
    <a class="job-row" href={href("jobs", job.id)}>
      <StatusBadge status={job.status} />
      <code class="job-id">{short(job.id)}</code>
      <span class="job-what cut">
        {job.label ?? job.template ?? "graph"}
        {session.value?.sees_all && job.tenant && job.tenant !== "default" && <span class="quiet"> · {job.tenant}</span>}
        <span class="quiet small cut">{aboutOf(job)}</span>
      </span>
      <span class="job-progress">{job.status === "running" && job.progress ? <ProgressLine progress={job.progress} /> : null}</span>
      <span class="quiet small job-gpu cut">{job.instance ?? ""}</span>
      <span class="small job-when"><When at={job.created_at} /></span>
    </a>
  );
}

function aboutOf(job: Job): string {
  if (job.error) return job.error.message;
  if (job.queue) return job.queue.starts_in_s != null ? `begins in about ${span(job.queue.starts_in_s)}: ${job.queue.reason}` : job.queue.reason;
  if (job.status === "succeeded") return `${plural(job.outputs.length, "output")}${job.metrics?.execution_ms != null ? ` in ${span(job.metrics.execution_ms / 1000)}` : ""}`;
  return "";
}

function filterOf(query: Record<string, string>): string {
  const since = query.since ? new Date(query.since) : null;
  const wanted: Record<string, string | undefined> = {
    status: query.status, label: query.label, template: query.template, error: query.error, id_prefix: query.id,
    created_after: since && !Number.isNaN(since.getTime()) ? since.toISOString() : undefined,
  };
  return new URLSearchParams(Object.entries(wanted).filter((entry): entry is [string, string] => !!entry[1])).toString();
}

/** The jobs that a filter finds, page by page, with what the stream tells of them. */
function useJobs(filter: string) {
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const reading = useRef("");
  const read = async (after: string | null, keep: boolean) => {
    const token = `${filter} ${Date.now()} ${after ?? ""}`;
    reading.current = token;
    try {
      const page = await get<Page>(`/api/v2/jobs?limit=${PAGE}${filter && `&${filter}`}${after ? `&cursor=${encodeURIComponent(after)}` : ""}`);
      if (reading.current !== token) return;
      setJobs((before) => (after || keep ? merged(before ?? [], page.jobs) : page.jobs));
      if (after || !keep) setCursor(page.next_cursor);
      setError(null);
    } catch (problem) {
      if (reading.current === token) setError(problem);
    }
  };
  useEffect(() => {
    setJobs(null);
    void read(null, false);
    return listen((news) => {
      if (news.kind === "again") void read(null, true);
      if (news.kind === "progress") setJobs((before) => before?.map((job) => (job.id === news.id ? { ...job, progress: news.progress } : job)) ?? null);
      if (news.kind === "job") setJobs((before) => before && withNews(before, news.job, filter));
    });
  }, [filter]);
  return { jobs, error, hasMore: cursor !== null, more: () => cursor && void read(cursor, true), again: () => void read(null, false) };
}

function merged(before: Job[], page: Job[]): Job[] {
  const all = new Map(before.map((job) => [job.id, job]));
  for (const job of page) all.set(job.id, job);
  return [...all.values()].sort((one, other) => (one.created_at < other.created_at ? 1 : one.created_at > other.created_at ? -1 : one.id < other.id ? 1 : -1));
}

function withNews(before: Job[], job: Job, filter: string): Job[] {
  const isKnown = before.some((each) => each.id === job.id);
  if (isKnown) return before.map((each) => (each.id === job.id ? job : each)).filter((each) => each.id !== job.id || fits(job, filter));
  return fits(job, filter) ? merged(before, [job]) : before;
}

function fits(job: Job, filter: string): boolean {
  const wanted = new URLSearchParams(filter);
  const is = (name: string, value: string | null | undefined) => !wanted.has(name) || wanted.get(name) === value;
  const since = wanted.get("created_after");
  const words = wanted.get("error")?.toLowerCase();
  const says = (part: string | undefined) => part?.toLowerCase().includes(words!) ?? false;
  return (!words || says(job.error?.code) || says(job.error?.message)) && is("status", job.status) && is("label", job.label) && is("template", job.template)
    && job.id.startsWith(wanted.get("id_prefix") ?? "") && (!since || job.created_at >= since);
}
