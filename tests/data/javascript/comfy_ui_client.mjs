// `comfy-ui-client`: a picture, a graph that is refused, and one that is cancelled.
import { ComfyUIClient } from "comfy-ui-client";

const [host, graphs] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new ComfyUIClient(host, crypto.randomUUID());
const seen = {};
await client.connect();
const images = await client.getImages(graphs.short);
const [found] = Object.values(images).flat();
seen.picture = Buffer.from(await found.blob.arrayBuffer()).subarray(1, 4).toString();
try {
  await client.queuePrompt(graphs.bad);
} catch (error) {
  seen.refused = String(error.message ?? error);
}
const { prompt_id } = await client.queuePrompt(graphs.long);
const queued = async () => {
  const queue = await client.getQueue();
  return queue.queue_running.some((item) => item[1] === prompt_id);
};
while (!(await queued())) await new Promise((resolve) => setTimeout(resolve, 200));
// It reads JSON where ComfyUI, too, answers with nothing.
await client.interrupt().catch(() => {});
let entry;
while (!entry) entry = (await client.getHistory(prompt_id))[prompt_id];
seen.interrupted = entry.status.messages.at(-1)[0];
seen.devices = (await client.getSystemStats()).devices.length;
await client.disconnect();
console.log(JSON.stringify(seen));
