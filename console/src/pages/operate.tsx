// What operators look after: webhooks, model files, keys, usage, and how the server itself is.
import { useState } from "preact/hooks";
import { ask, get, may, post, remove, session, type Delivery } from "../api";
import { Card, Deed, Empty, ErrorNote, Loading, Meter, StatusBadge, useAnswer, When } from "../parts/basics";
import { href } from "../route";
import { bytes, plural, short, span, text } from "../words";

const LOOK_MS = 5000;

export function WebhooksPage() {
  const [state, setState] = useState("");
  const path = `/webhooks/deliveries?limit=100${state && `&state=${state}`}`;
  const { answer, error, again } = useAnswer(() => get<{ deliveries: (Delivery & { job_id: string })[] }>(path), [state], LOOK_MS);
  return (
    <>
      <div class="bar"><div class="chips" role="group" aria-label="State">{["", "pending", "sending", "delivered", "dead"].map((each) => <button type="button" key={each} aria-pressed={state === each} onClick={() => setState(each)}>{each || "all"}</button>)}</div></div>
      {error !== null && <ErrorNote error={error} retry={again} />}
      {!answer && !error && <Loading what="deliveries" />}
      {answer?.deliveries.length === 0 && <Empty title="No deliveries"><p class="quiet">Jobs with a <code>webhook</code> tell of their ends here.</p></Empty>}
      {answer && answer.deliveries.length > 0 && (
        <div class="card wide"><table>
          <thead><tr><th>State</th><th>Event</th><th>Job</th><th>To</th><th class="number">Tries</th><th>Next try</th><th /></tr></thead>
          <tbody>{answer.deliveries.map((each) => (
            <tr key={each.id}>
              <td><StatusBadge status={each.state} /></td><td>{each.event}</td><td><a href={href("jobs", each.job_id)}>{short(each.job_id)}</a></td><td class="breaks">{each.url}</td>
              <td class="number">{each.tries}</td><td><When at={each.next_try_at} /></td>
              <td>{(each.state === "dead" || each.state === "delivered") && <Deed act={() => post(`/webhooks/deliveries/${encodeURIComponent(each.id)}/replay`).then(again)}>Send again</Deed>}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
    </>
  );
}

interface ModelFile { path: string; source: string; sha256: string | null; size_bytes: number | null; tags: string[]; pools: string[]; copies: { host: string; state: string; done_bytes: number; error: string | null }[] }

export function ModelsPage() {
  const { answer, error, again } = useAnswer(() => get<{ model_files: ModelFile[] }>("/api/v2/model-files"), [], LOOK_MS);
  const [path, setPath] = useState("");
  const [source, setSource] = useState("");
  const [wanted, setWanted] = useState("");
  const found = (answer?.model_files ?? []).filter((each) => `${each.path} ${each.pools.join(" ")} ${each.tags.join(" ")}`.includes(wanted.trim()));
  const enter = async () => {
    await post("/api/v2/model-files", { model_files: [{ path, source }] });
    setPath("");
    setSource("");
    again();
  };
  return (
    <>
      <Card title="Enter a model file">
        <div class="bar">
          <input aria-label="Path" placeholder="checkpoints/x.safetensors" value={path} onInput={(event) => setPath(event.currentTarget.value)} />
          <input aria-label="Source" class="grows" placeholder="https://…, s3://…, hf://owner/repository/file" value={source} onInput={(event) => setSource(event.currentTarget.value)} />
          <Deed kind="main" disabled={!path || !source} act={enter}>Enter</Deed>
        </div>
      </Card>
      {error !== null && <ErrorNote error={error} retry={again} />}
      {!answer && !error && <Loading what="model files" />}
      {answer?.model_files.length === 0 && <Empty title="No model file is in the manifest"><p class="quiet">What stands there is fetched where jobs need it.</p></Empty>}
      {answer && answer.model_files.length > 0 && (
        <div class="card wide">
          <div class="bar"><h2>{plural(answer.model_files.length, "model file")}</h2><input type="search" aria-label="Find model files" placeholder="Find" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} /></div>
          <table>
            <thead><tr><th>Path</th><th class="number">Size</th><th>Pools</th><th>Hosts</th><th /></tr></thead>
            <tbody>{found.slice(0, 500).map((each) => (
              <tr key={each.path}>
                <td><strong class="breaks">{each.path}</strong><br /><span class="quiet small breaks">{each.source}</span></td><td class="number">{bytes(each.size_bytes)}</td><td>{each.pools.join(", ") || "all"}</td>
                <td>{each.copies.map((copy) => <div key={copy.host}><StatusBadge status={copy.state === "ready" ? "healthy" : copy.state} /> {copy.host}{copy.state === "fetching" && each.size_bytes ? <Meter value={copy.done_bytes / each.size_bytes} label={copy.host} /> : null}{copy.error && <span class="bad small"> {copy.error}</span>}</div>)}</td>
                <td><Deed kind="bad" confirm={`Take ${each.path} out of the manifest?`} act={() => remove(`/api/v2/model-files/${encodeURIComponent(each.path)}`).then(again)}>Remove</Deed></td>
              </tr>
            ))}</tbody>
          </table>
        </div>
      )}
    </>
  );
}

interface Key { id: string; tenant: string; name: string; scopes: string[]; secrets: number; created_at: string; ends_at: string | null; revoked_at: string | null; last_used_at: string | null; last_used_by: string | null }
interface Level { own: number | string | null; allowed: number | null; used: number | null; left: number | null }
interface Tenant { name: string; weight: number; limits: Record<string, Level> }
const SCOPES = ["submit", "read", "cancel", "webhooks", "usage", "models", "operate", "admin"];

export function KeysPage() {
  const keys = useAnswer(() => get<{ keys: Key[] }>("/api/v2/keys"), []);
  const tenants = useAnswer(() => get<{ tenants: Tenant[] }>("/api/v2/tenants"), []);
  const [told, setTold] = useState<{ name: string; secret: string } | null>(null);
  const [name, setName] = useState("");
  const [tenant, setTenant] = useState("default");
  const [scopes, setScopes] = useState<string[]>(["submit", "read", "cancel"]);
  const isFirst = keys.answer?.keys.length === 0 && !session.value?.asks_for_keys;
  const make = async () => {
    const made = await post<Key & { secret: string }>("/api/v2/keys", { name, tenant, scopes });
    setTold({ name: made.name, secret: made.secret });
    setName("");
    keys.again();
  };
  const error = keys.error ?? tenants.error;
  return (
    <>
      {error !== null && <ErrorNote error={error} retry={() => { keys.again(); tenants.again(); }} />}
      {told && <div class="note"><p>The secret of <strong>{told.name}</strong>, which is told this once:</p><pre tabIndex={0}>{told.secret}</pre><button type="button" onClick={() => setTold(null)}>I have kept it</button></div>}
      <Card title="Make a key">
        {isFirst && <p class="quiet">So far nobody is asked for a key. With the first one everybody is: give it the scope <code>admin</code>, or you lock yourself out of this page.</p>}
        <div class="bar">
          <input aria-label="Name" placeholder="Name" value={name} onInput={(event) => setName(event.currentTarget.value)} />
          <select aria-label="Tenant" value={tenant} onChange={(event) => setTenant(event.currentTarget.value)}>{(tenants.answer?.tenants ?? []).map((each) => <option key={each.name}>{each.name}</option>)}</select>
          <span class="chips" role="group" aria-label="Scopes">{SCOPES.map((scope) => <button type="button" key={scope} aria-pressed={scopes.includes(scope)} onClick={() => setScopes(scopes.includes(scope) ? scopes.filter((each) => each !== scope) : [...scopes, scope])}>{scope}</button>)}</span>
          <Deed kind="main" disabled={!name || scopes.length === 0} confirm={isFirst ? "From now on everybody needs a key. Make it?" : undefined} act={make}>Make</Deed>
        </div>
      </Card>
      {keys.answer && keys.answer.keys.length > 0 && (
        <div class="card wide"><table>
          <thead><tr><th>Key</th><th>Tenant</th><th>Scopes</th><th>Ends</th><th>Last used</th><th /></tr></thead>
          <tbody>{keys.answer.keys.map((key) => (
            <tr key={key.id} class={key.revoked_at ? "quiet" : undefined}>
              <td>{key.name}</td><td>{key.tenant}</td><td class="small">{key.scopes.join(", ")}</td><td>{key.revoked_at ? "revoked" : <When at={key.ends_at} />}</td>
              <td><When at={key.last_used_at} />{key.last_used_by && <span class="quiet small"> {key.last_used_by}</span>}</td>
              <td>{!key.revoked_at && <span class="buttons"><Deed act={async () => setTold({ name: key.name, secret: (await post<{ secret: string }>(`/api/v2/keys/${key.id}/rotate`)).secret })}>Rotate</Deed><Deed kind="bad" confirm={`Revoke ${key.name}? Whoever uses it is refused within a second.`} act={() => post(`/api/v2/keys/${key.id}/revoke`).then(keys.again)}>Revoke</Deed></span>}</td>
            </tr>
          ))}</tbody>
        </table></div>
      )}
      {tenants.answer && (
        <Card title="Tenants"><div class="wide"><table>
          <thead><tr><th>Tenant</th><th class="number">Weight</th>{Object.keys(tenants.answer.tenants[0]?.limits ?? {}).map((limit) => <th key={limit} class="number">{limit.replace(/^max_/, "").replaceAll("_", " ")}</th>)}</tr></thead>
          <tbody>{tenants.answer.tenants.map((each) => <tr key={each.name}><td>{each.name}</td><td class="number">{each.weight}</td>{Object.entries(each.limits).map(([limit, level]) => <td key={limit} class="number">{shown(limit, level.used)} / {level.allowed === null ? "∞" : shown(limit, level.allowed)}</td>)}</tr>)}</tbody>
        </table></div></Card>
      )}
    </>
  );
}

const shown = (limit: string, value: number | null) => (value === null ? "–" : limit.includes("bytes") ? bytes(value) : limit.includes("gpu_s") ? span(value) : value.toLocaleString());

interface Amounts { gpu_s: number; run_s: number; load_s: number; lost_s: number; jobs: Record<string, number>; bytes_in: number; bytes_out: number; cost: number | null }
interface Usage { since: string; until: string; currency: string | null; rows: (Amounts & Record<string, string | null>)[]; total: Amounts }
const GROUPS = ["tenant", "key", "template", "gpu", "day"];

export function UsagePage() {
  const [by, setBy] = useState("day");
  const path = `/api/v2/usage?by=${by}`;
  const { answer, error, again } = useAnswer(() => ask<Usage>("GET", path, undefined, { Accept: "application/json" }), [by]);
  const nameOf = (row: Usage["rows"][number]) => text(row[by === "key" ? "key_name" : by] ?? "none");
  const most = Math.max(1, ...(answer?.rows ?? []).map((row) => row.gpu_s));
  return (
    <>
      <div class="bar"><div class="chips" role="group" aria-label="Grouped by">{GROUPS.map((each) => <button type="button" key={each} aria-pressed={by === each} onClick={() => setBy(each)}>by {each}</button>)}</div><a class="button" href={`${path}&format=csv`} download="usage.csv">CSV</a></div>
      {error !== null && <ErrorNote error={error} retry={again} />}
      {!answer && !error && <Loading what="usage" />}
      {answer && (
        <Card title={`${answer.since} to ${answer.until}, in UTC`} aside={answer.total.cost !== null && <strong>{answer.total.cost.toFixed(2)} {answer.currency}</strong>}>
          {answer.rows.length === 0 ? <Empty title="Nothing was used" /> : (
            <div class="wide"><table>
              <thead><tr><th>{by}</th><th>GPU time</th><th class="number">Ran</th><th class="number">Loaded</th><th class="number">Lost</th><th class="number">Jobs</th><th class="number">Failed</th><th class="number">In</th><th class="number">Out</th>{answer.currency && <th class="number">{answer.currency}</th>}</tr></thead>
              <tbody>{answer.rows.map((row) => (
                <tr key={nameOf(row)}>
                  <td>{nameOf(row)}</td><td><Meter value={row.gpu_s / most} label={`GPU time of ${nameOf(row)}`} /></td><td class="number">{span(row.run_s)}</td><td class="number">{span(row.load_s)}</td><td class="number">{span(row.lost_s)}</td>
                  <td class="number">{Object.values(row.jobs).reduce((sum, count) => sum + count, 0).toLocaleString()}</td><td class="number">{(row.jobs.failed ?? 0).toLocaleString()}</td><td class="number">{bytes(row.bytes_in)}</td><td class="number">{bytes(row.bytes_out)}</td>
                  {answer.currency && <td class="number">{row.cost?.toFixed(2) ?? "–"}</td>}
                </tr>
              ))}</tbody>
            </table></div>
          )}
        </Card>
      )}
    </>
  );
}

interface Check { ok: boolean; reason: string | null }
interface Ready { ready: boolean; ledger?: Check; broker?: Check; storage?: Check; loops?: { name: string; alive: boolean; failures: number; last_error: string | null; failing_since: string | null }[]; healthy_instances?: number }
interface Act { id: number; at: string; act: string; subject: string; by: { who: string; address: string | null } }

export function HealthPage() {
  const { answer, error, again } = useAnswer(async () => {
    const found = await fetch("/ready", { credentials: "same-origin", cache: "no-store" });
    return (await found.json()) as Ready;
  }, [], LOOK_MS);
  const acts = useAnswer(async () => (may("admin") ? (await get<{ acts: Act[] }>("/api/v2/audit?limit=50")).acts : []), []);
  if (error && !answer) return <ErrorNote error={error} retry={again} />;
  if (!answer) return <Loading what="the server's health" />;
  const checks: [string, Check | undefined][] = [["Ledger", answer.ledger], ["Broker", answer.broker], ["Storage", answer.storage]];
  return (
    <>
      <div class={`note${answer.ready ? "" : " is-bad"}`}><p><strong>{answer.ready ? "Jobs can run." : "Jobs cannot run now; those that were taken wait."}</strong></p></div>
      {answer.ledger && (
        <Card title="What a job needs"><dl class="facts">
          {checks.map(([name, check]) => check && <><dt>{name}</dt><dd>{check.ok ? <StatusBadge status="healthy" /> : <span class="bad">{check.reason}</span>}</dd></>)}
          <dt>Healthy GPUs</dt><dd>{answer.healthy_instances}</dd>
        </dl></Card>
      )}
      {answer.loops && <Card title="Threads of this API process"><dl class="facts">{answer.loops.map((loop) => <><dt>{loop.name}</dt><dd>{!loop.alive ? <span class="bad">has ended</span> : loop.failures ? <span class="bad">{plural(loop.failures, "failure")} in a row: {loop.last_error}</span> : <StatusBadge status="healthy" />}</dd></>)}</dl></Card>}
      {acts.answer && acts.answer.length > 0 && (
        <Card title="Who did what"><div class="wide"><table>
          <thead><tr><th>When</th><th>Act</th><th>To</th><th>By</th></tr></thead>
          <tbody>{acts.answer.map((act) => <tr key={act.id}><td><When at={act.at} /></td><td>{act.act}</td><td class="breaks">{act.subject}</td><td>{act.by.who}{act.by.address && <span class="quiet small"> {act.by.address}</span>}</td></tr>)}</tbody>
        </table></div></Card>
      )}
    </>
  );
}
