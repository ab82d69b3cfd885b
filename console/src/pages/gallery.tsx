// What was made, the newest first; opening one shows how.
import { useEffect, useState } from "preact/hooks";
import { contentPath, get, may, post, type Job, type Output } from "../api";
import { listen } from "../live";
import { Deed, Empty, ErrorNote, Loading, When } from "../parts/basics";
import { isPicture, Lightbox } from "../parts/outputs";
import { go, href, refine, route } from "../route";
import { short, text } from "../words";

const PAGE = 60;
interface Item { job: Job; output: Output }

export function GalleryPage() {
  const query = Object.fromEntries(route.value.query);
  const filter = new URLSearchParams(Object.entries({ label: query.label, template: query.template }).filter((each): each is [string, string] => !!each[1])).toString();
  const [jobs, setJobs] = useState<Job[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [opened, setOpened] = useState<string | null>(null);
  const read = async (after: string | null) => {
    try {
      const page = await get<{ jobs: Job[]; next_cursor: string | null }>(`/api/v2/jobs?status=succeeded&limit=${PAGE}${filter && `&${filter}`}${after ? `&cursor=${encodeURIComponent(after)}` : ""}`);
      setJobs((before) => (after ? [...(before ?? []), ...page.jobs] : page.jobs));
      setCursor(page.next_cursor);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  };
  useEffect(() => {
    setJobs(null);
    void read(null);
    return listen((news) => {
      if (news.kind === "again") void read(null);
      const wanted = new URLSearchParams(filter);
      if (news.kind !== "job" || news.job.status !== "succeeded") return;
      if ((wanted.get("label") ?? news.job.label) !== news.job.label || (wanted.get("template") ?? news.job.template) !== news.job.template) return;
      setJobs((before) => before && [news.job, ...before.filter((job) => job.id !== news.job.id)]);
    });
  }, [filter]);
  const items: Item[] = (jobs ?? []).flatMap((job) => job.outputs.filter((output) => output.id && !output.expired && (isPicture(output) || output.type === "video" || output.type === "audio")).map((output) => ({ job, output })));
  const place = items.findIndex((item) => item.output.id === opened);
  const item = items[place];
  return (
    <>
      <form class="bar" role="search" onSubmit={(event) => event.preventDefault()}>
        <input type="search" aria-label="Label" placeholder="Label" value={query.label ?? ""} onChange={(event) => refine({ ...query, label: event.currentTarget.value.trim() })} />
        <input type="search" aria-label="Template" placeholder="Template" value={query.template ?? ""} onChange={(event) => refine({ ...query, template: event.currentTarget.value.trim() })} />
      </form>
      {error !== null && <ErrorNote error={error} retry={() => void read(null)} />}
      {jobs === null && error === null && <Loading what="pictures" />}
      {jobs !== null && items.length === 0 && <Empty title="Nothing to look at yet"><p class="quiet">Pictures, videos and sounds of jobs that succeed appear here.</p></Empty>}
      <div class="gallery">
        {items.map(({ job, output }) => (
          <button type="button" class="gallery-item" key={output.id} onClick={() => setOpened(output.id ?? null)} aria-label={`${output.name} of job ${short(job.id)}`}>
            {isPicture(output) ? <img src={contentPath(output)} alt="" loading="lazy" decoding="async" /> : output.type === "video" ? <video src={contentPath(output)} preload="metadata" muted /> : <span class="gallery-sound">{output.name}</span>}
            <span class="gallery-line cut small">{job.label ?? job.template ?? short(job.id)}</span>
          </button>
        ))}
      </div>
      {cursor && <p><button type="button" onClick={() => void read(cursor)}>Older ones</button></p>}
      {item && (
        <Lightbox key={opened} output={item.output} onClose={() => setOpened(null)} onStep={(by) => setOpened(items[(place + by + items.length) % items.length]?.output.id ?? null)}>
          <h2>{item.output.name}</h2>
          <p class="small"><When at={item.job.completed_at} /> · <a href={href("jobs", item.job.id)}>Job {short(item.job.id)}</a>{item.job.template && <> · {item.job.template}</>}</p>
          <dl class="facts">{Object.entries({ ...item.job.parameters, ...item.job.batch?.varied }).map(([name, value]) => <><dt>{name}</dt><dd class="breaks">{text(value)}</dd></>)}</dl>
          <span class="buttons">
            {may("submit") && <Deed kind="main" act={async () => go("jobs", (await post<Job>(`/api/v2/jobs/${encodeURIComponent(item.job.id)}/rerun`, {})).id)}>Again, new seed</Deed>}
            <a class="button" href={contentPath(item.output)} download={item.output.name}>Download</a>
          </span>
        </Lightbox>
      )}
    </>
  );
}
