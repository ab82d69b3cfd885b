// Each template as a form; what it sends is shown as commands too.
import { useEffect, useState } from "preact/hooks";
import { ask, get, isEnded, may, post, session, type Job, type ParameterSchema, type Template } from "../api";
import { listen } from "../live";
import { Card, Empty, ErrorNote, Loading, ProgressLine, StatusBadge, useAnswer } from "../parts/basics";
import { EstimateNote } from "../parts/estimate";
import { OutputView } from "../parts/outputs";
import { href, route } from "../route";
import { short, text } from "../words";

type Values = Record<string, unknown>;

export function PlaygroundPage() {
  const { answer, error, again } = useAnswer(() => get<{ workflows: Template[]; problems: { file: string; line?: number | null; reason: string }[] }>("/workflows"), []);
  const name = route.value.id;
  if (error && !answer) return <ErrorNote error={error} retry={again} />;
  if (!answer) return <Loading what="templates" />;
  if (name) return <TemplateForm key={name} name={name} />;
  return (
    <>
      {answer.problems.map((problem) => <div class="note is-bad" key={problem.file}><p><code>{problem.file}</code>{problem.line ? `, line ${problem.line}` : ""}: {problem.reason}</p></div>)}
      {answer.workflows.length === 0 && <Empty title="There are no templates"><p class="quiet">Put graphs into the directory of <code>COMFYLINE_WORKFLOWS_DIR</code>.</p></Empty>}
      <div class="tiles">
        {answer.workflows.map((template) => (
          <a class="tile" key={template.name} href={href("playground", template.name)}><strong>{template.title || template.name}</strong><p class="quiet small">{template.description}</p></a>
        ))}
      </div>
    </>
  );
}

function TemplateForm({ name }: { name: string }) {
  const { answer, error, again } = useAnswer(() => get<Template>(`/workflows/${encodeURIComponent(name)}`), [name]);
  const [values, setValues] = useState<Values>({});
  const [problem, setProblem] = useState<unknown>(null);
  const [jobs, setJobs] = useState<Job[]>([]);
  const [isBusy, setBusy] = useState(false);
  useEffect(() => listen((news) => {
    if (news.kind === "job") setJobs((before) => before.map((job) => (job.id === news.job.id ? news.job : job)));
    if (news.kind === "progress") setJobs((before) => before.map((job) => (job.id === news.id ? { ...job, progress: news.progress } : job)));
    if (news.kind === "again") void lookAgain();
  }), []);
  const lookAgain = async () => {
    const open = jobs.filter((job) => !isEnded(job.status));
    const found = await Promise.all(open.map((job) => get<Job>(`/api/v2/jobs/${job.id}`).catch(() => job)));
    setJobs((before) => before.map((job) => found.find((each) => each.id === job.id) ?? job));
  };
  if (error && !answer) return <ErrorNote error={error} retry={again} />;
  if (!answer) return <Loading what="the template" />;
  const properties = answer.parameters?.properties ?? {};
  const needed = new Set(answer.parameters?.required ?? []);
  const lacking = [...needed].filter((key) => values[key] === undefined);
  const run = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      const job = await post<Job>(`/workflows/${encodeURIComponent(name)}`, { parameters: values }, { "Idempotency-Key": crypto.randomUUID() });
      setJobs((before) => [job, ...before]);
    } catch (found) {
      setProblem(found);
    }
    setBusy(false);
  };
  const set = (key: string, value: unknown) => setValues((before) => {
    const { [key]: _before, ...rest } = before;
    return value === undefined || value === "" ? rest : { ...rest, [key]: value };
  });
  return (
    <>
      <div class="bar"><a href={href("playground")}>All templates</a><h2>{answer.title || name}</h2></div>
      <p class="quiet">{answer.description}</p>
      <div class="columns">
        <form class="card form" onSubmit={run}>
          {Object.entries(properties).map(([key, schema]) => <Field key={key} name={key} schema={schema} isNeeded={needed.has(key)} value={values[key]} set={(value) => set(key, value)} />)}
          {problem !== null && <ErrorNote error={problem} />}
          <EstimateNote path={`/workflows/${encodeURIComponent(name)}`} body={lacking.length ? null : { parameters: values }} lack={`Fill in ${lacking.join(", ")} to see when it would begin.`} />
          <button type="submit" class="is-main" disabled={isBusy || !may("submit")}>{isBusy ? "Sending…" : "Run"}</button>
          {!may("submit") && <p class="quiet small">This key has no scope <code>submit</code>.</p>}
        </form>
        <div>
          {jobs.map((job) => (
            <Card key={job.id} title={<a href={href("jobs", job.id)}>Job {short(job.id)}</a>} aside={<StatusBadge status={job.status} />}>
              {job.error && <p class="bad">{job.error.message}</p>}
              {!isEnded(job.status) && (job.progress ? <ProgressLine progress={job.progress} /> : <p class="quiet small">{job.queue?.reason ?? "It waits for a GPU."}</p>)}
              <div class="outputs">{job.outputs.map((output) => <OutputView key={output.id} output={output} />)}</div>
            </Card>
          ))}
          <Commands name={name} values={values} />
        </div>
      </div>
    </>
  );
}

function Field(props: { name: string; schema: ParameterSchema; isNeeded: boolean; value: unknown; set: (value: unknown) => void }) {
  const { name, schema, value, set } = props;
  const id = `field-${name}`;
  const hint = schema.default === undefined ? "" : text(schema.default);
  const given = value === undefined ? "" : String(value);
  const number = (words: string) => (words === "" ? undefined : Number(words));
  let input;
  if (schema.enum) {
    input = (
      <select id={id} value={given} required={props.isNeeded} onChange={(event) => set(schema.enum!.find((each) => String(each) === event.currentTarget.value))}>
        <option value="">{hint || "choose"}</option>
        {[...new Map(schema.enum.map((each) => [String(each), each])).values()].map((each) => <option key={String(each)} value={String(each)}>{String(each)}</option>)}
      </select>
    );
  } else if (schema.type === "boolean") {
    input = <input id={id} type="checkbox" checked={value === undefined ? schema.default === true : value === true} onChange={(event) => set(event.currentTarget.checked)} />;
  } else if (schema.type === "integer" || schema.type === "number") {
    const step = schema.multipleOf ?? (schema.type === "integer" ? 1 : "any");
    const hasRange = schema.minimum !== undefined && schema.maximum !== undefined && schema.maximum - schema.minimum <= 10_000;
    input = (
      <span class="range">
        {hasRange && <input type="range" aria-label={`${name}, as a slider`} min={schema.minimum} max={schema.maximum} step={step} value={given || String(schema.default ?? schema.minimum)} onInput={(event) => set(number(event.currentTarget.value))} />}
        <input id={id} type="number" min={schema.minimum} max={schema.maximum} step={step} placeholder={hint} required={props.isNeeded} value={given} onInput={(event) => set(number(event.currentTarget.value))} />
      </span>
    );
  } else if (schema.contentMediaType?.startsWith("image/")) {
    input = <FileField id={id} given={given} hint={hint} isNeeded={props.isNeeded} set={set} />;
  } else {
    input = <textarea id={id} rows={name.includes("prompt") ? 3 : 1} maxLength={schema.maxLength} placeholder={hint} required={props.isNeeded} value={given} onInput={(event) => set(event.currentTarget.value)} />;
  }
  return <div class="field"><label htmlFor={id}>{name}{props.isNeeded && <span class="bad" title="needed"> *</span>}</label>{input}{schema.description && <p class="quiet small">{schema.description}</p>}</div>;
}

/** A file by its name or URL, or one that is dropped here, which is uploaded first. */
function FileField(props: { id: string; given: string; hint: string; isNeeded: boolean; set: (value: unknown) => void }) {
  const [state, setState] = useState("");
  const upload = async (file: File | undefined) => {
    if (!file) return;
    setState(`Uploading ${file.name}…`);
    const form = new FormData();
    const path = `${crypto.randomUUID().slice(0, 8)}-${file.name.replace(/[^\w.-]+/g, "_")}`;
    form.set("file_path", path);
    form.set("file", file);
    try {
      await ask("POST", "/api/v2/assets", form);
      props.set(path);
      setState(`Uploaded as ${path}.`);
    } catch (problem) {
      setState(problem instanceof Error ? problem.message : String(problem));
    }
  };
  return (
    <div class="drop" onDragOver={(event) => event.preventDefault()} onDrop={(event) => { event.preventDefault(); void upload(event.dataTransfer?.files[0]); }}>
      <input id={props.id} type="text" placeholder={props.hint || "name or URL"} required={props.isNeeded} value={props.given} onInput={(event) => props.set(event.currentTarget.value)} />
      <label class="small">or drop a file here, or <input type="file" aria-label="Choose a file" onChange={(event) => void upload(event.currentTarget.files?.[0])} /></label>
      <span class="small" role="status">{state}</span>
    </div>
  );
}

function Commands({ name, values }: { name: string; values: Values }) {
  const body = JSON.stringify({ parameters: values });
  const url = `${location.origin}/workflows/${encodeURIComponent(name)}`;
  const needsKey = session.value?.asks_for_keys ?? false;
  const shown: [string, string][] = [
    ["curl", `curl ${url} \\\n${needsKey ? '  -H "Authorization: Bearer $COMFY_API_KEY" \\\n' : ""}  -H 'Content-Type: application/json' \\\n  -d '${body.replaceAll("'", "'\\''")}'`],
    ["Python", `import ${needsKey ? "os, " : ""}requests\n\njob = requests.post(\n    "${url}",\n${needsKey ? '    headers={"Authorization": "Bearer " + os.environ["COMFY_API_KEY"]},\n' : ""}    json=${pythonOf({ parameters: values })},\n).json()\nprint(job["id"], job["status"])`],
    ["JavaScript", `const answer = await fetch("${url}", {\n  method: "POST",\n  headers: { "Content-Type": "application/json"${needsKey ? ', Authorization: `Bearer ${process.env.COMFY_API_KEY}`' : ""} },\n  body: JSON.stringify(${body}),\n});\nconst job = await answer.json();\nconsole.log(job.id, job.status);`],
  ];
  return (
    <Card title="The same from a program">
      {shown.map(([language, code], place) => (
        <details key={language} open={place === 0}><summary>{language}</summary><pre tabIndex={0}>{code}</pre><button type="button" onClick={() => void navigator.clipboard?.writeText(code)}>Copy</button></details>
      ))}
    </Card>
  );
}

function pythonOf(value: unknown): string {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) return `[${value.map(pythonOf).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}: ${pythonOf(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
