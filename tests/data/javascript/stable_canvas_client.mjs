// `@stable-canvas/comfyui-client`: progress and a picture, a graph that is refused, and one that is cancelled.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const WebSocket = require("ws");
const { Client } = require("@stable-canvas/comfyui-client");

const [host, graphs] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new Client({ api_host: host, WebSocket, fetch });
const seen = { steps: 0 };
client.connect();
client.on("progress", () => (seen.steps += 1));
client.on("execution_interrupted", (told) => (seen.interrupted = told.prompt_id));
const made = await client.enqueue(graphs.short);
const [image] = made.images;
const bytes = image.type === "buff" ? Buffer.from(image.data) : Buffer.from(await (await fetch(image.data)).arrayBuffer());
seen.picture = bytes.subarray(1, 4).toString();
try {
  await client.enqueue(graphs.bad);
} catch (error) {
  seen.refused = String(error.message ?? error);
}
const { prompt_id } = await client._enqueue_prompt(graphs.long);
const runs = async () => JSON.stringify((await client.getQueue()).Running).includes(prompt_id);
while (!(await runs())) await new Promise((resolve) => setTimeout(resolve, 200));
await client.interrupt(prompt_id);
while (!seen.interrupted) await new Promise((resolve) => setTimeout(resolve, 200));
seen.interrupted = seen.interrupted === prompt_id;
seen.nodes = Object.keys(await client.getNodeDefs()).length > 10;
client.close();
console.log(JSON.stringify(seen));
