import { defineConfig } from "vite";

// The API serves what is built here, and the tests hold it to what this makes: one file of each kind, named by content.
export default defineConfig({
  base: "/console/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../api/console",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
  },
  server: { proxy: { "^/(api|workflows|webhooks|queue-info|ready|convert)": "http://127.0.0.1:8000" } },
});
