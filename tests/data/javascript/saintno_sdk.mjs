// `@saintno/comfyui-sdk`: progress and a picture, a graph that is refused, and one that is cancelled.
import { CallWrapper, ComfyApi, PromptBuilder } from "@saintno/comfyui-sdk";

const [host, graphs] = [process.argv[2], JSON.parse(process.argv[3])];
const api = new ComfyApi(`http://${host}`);
await api.init(5, 2000).waitForReady();
const seen = { steps: 0 };
const called = (graph) => new CallWrapper(api, new PromptBuilder(graph, ["seed"], ["images"]).setInputNode("seed", "1.inputs.color").setOutputNode("images", "3").input("seed", 7));
const done = await called(graphs.short).onProgress(() => (seen.steps += 1)).run();
const answer = await fetch(api.getPathImage(done.images.images[0]));
seen.picture = Buffer.from(await answer.arrayBuffer()).subarray(1, 4).toString();
await called(graphs.bad).onFailed((error) => (seen.refused = error.name)).run();
let started;
const begins = new Promise((resolve) => (started = resolve));
const ended = called(graphs.long).onStart(() => started()).onFailed((error) => (seen.interrupted = error.name)).run();
await begins;
const [running] = (await api.getQueue()).queue_running;
await api.interrupt(running[1]);
await ended;
api.destroy?.();
console.log(JSON.stringify(seen));
process.exit(0);
