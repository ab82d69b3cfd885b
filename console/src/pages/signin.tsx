// Where a server asks for keys: the key is handed over once, and this page keeps none.
import { useState } from "preact/hooks";
import { post, readSession, session, type Session } from "../api";
import { ErrorNote } from "../parts/basics";

export function SignInPage() {
  const [key, setKey] = useState("");
  const [error, setError] = useState<unknown>(null);
  const signIn = async (event: Event) => {
    event.preventDefault();
    try {
      session.value = await post<Session>("/api/v2/session", { key });
      await readSession();
    } catch (problem) {
      setError(problem);
    }
  };
  return (
    <main class="sign-in">
      <form class="card form" onSubmit={signIn}>
        <h1>Comfyline</h1>
        <p class="quiet">This server asks for a key. Your browser keeps it where no script can read it, for twelve hours at most.</p>
        <div class="field">
          <label htmlFor="key">API key</label>
          <input id="key" type="password" autocomplete="current-password" required autofocus value={key} onInput={(event) => setKey(event.currentTarget.value)} />
        </div>
        {error !== null && <ErrorNote error={error} />}
        <button type="submit" class="is-main">Sign in</button>
      </form>
    </main>
  );
}
