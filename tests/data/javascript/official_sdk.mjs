// The official SDK, unmodified, against the server that COMFY_BASE_URL and COMFY_ROUTER_BASE_URL name.
// What it saw goes to standard output as one line of JSON.
import { readFileSync } from "node:fs";
import { Comfy, models } from "@comfyorg/sdk";

const client = new Comfy({ apiKey: process.env.COMFY_API_KEY });
const seen = {};

const workflow = client.workflows.fromJson(JSON.parse(readFileSync(process.argv[2], "utf8")));
const job = await client.submit(workflow);
const kinds = new Set();
for await (const event of job.events()) kinds.add(event.kind);
await job.wait();
seen.kinds = [...kinds].sort();
seen.status = job.status;
seen.bytes = (await job.getOutputs("2")[0].toBytes()).length;

const made = await models.run("fleet/text2image", { prompt: "a lighthouse" }, { idempotencyKey: "lighthouse-1" });
seen.made = [made.data.outputs.length, made.requestId !== null];
const again = await models.run("fleet/text2image", { prompt: "a lighthouse" }, { idempotencyKey: "lighthouse-1" });
seen.again = again.data.request_id === made.data.request_id;
for (const [model, input] of [["fleet/text2image", { steps: -1, prompt: "x" }], ["fleet/nothing", {}]]) {
  try {
    await models.run(model, input);
  } catch (error) {
    (seen.refused ??= []).push([error.code, error.httpStatus, error.message]);
  }
}
console.log(JSON.stringify(seen));
