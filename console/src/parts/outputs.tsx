// What jobs made, shown as what it is.
import { useEffect, useRef, useState } from "preact/hooks";
import { contentPath, type Output } from "../api";
import { bytes } from "../words";

export const isPicture = (output: Output) => /^image\/(png|jpeg|webp|gif|avif|bmp|svg\+xml)$/.test(output.content_type);
const LONGEST_TEXT_BYTES = 200_000;

export function OutputView({ output }: { output: Output }) {
  return (
    <figure class="output">
      <Shown output={output} />
      <figcaption>
        <span class="cut" title={output.name}>{output.name}</span>
        <span class="quiet small">{bytes(output.size_bytes)}</span>
        {output.id && !output.expired && <a class="small" href={contentPath(output)} download={output.name}>Download</a>}
      </figcaption>
    </figure>
  );
}

function Shown({ output }: { output: Output }) {
  if (!output.id || output.expired) return <div class="output-gone">{output.expired ? "Expired" : "Not stored here"}</div>;
  const path = contentPath(output);
  if (isPicture(output)) return <a href={path} target="_blank" rel="noreferrer"><img src={path} alt={output.name} loading="lazy" /></a>;
  if (output.type === "video") return <video src={path} controls preload="metadata" />;
  if (output.type === "audio") return <audio src={path} controls preload="metadata" />;
  if (output.content_type.startsWith("text/plain") || output.content_type === "application/json") return <TextOutput output={output} />;
  return <div class="output-gone">{output.content_type}</div>;
}

function TextOutput({ output }: { output: Output }) {
  const [text, setText] = useState("…");
  const isShort = output.size_bytes <= LONGEST_TEXT_BYTES;
  useEffect(() => {
    if (!isShort) return;
    fetch(contentPath(output), { credentials: "same-origin" })
      .then((answer) => (answer.ok ? answer.text() : "The file is gone."))
      .then(setText, () => setText("The server does not answer."));
  }, [output.id]);
  return <pre class="output-text" tabIndex={0}>{isShort ? text : "Too long to be shown here."}</pre>;
}

/** A picture over the page; Escape and the arrows work. */
export function Lightbox(props: { output: Output; onClose: () => void; onStep: (by: number) => void; children: preact.ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowRight") props.onStep(1);
    if (event.key === "ArrowLeft") props.onStep(-1);
  };
  return (
    <dialog class="lightbox" ref={dialog} onClose={props.onClose} onKeyDown={onKey} aria-label={props.output.name}>
      <div class="lightbox-picture"><Shown output={props.output} /></div>
      <aside>{props.children}<button type="button" onClick={() => dialog.current?.close()}>Close</button></aside>
    </dialog>
  );
}
