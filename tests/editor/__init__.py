"""Documents of ComfyUI's editor for tests: the official templates, and what their nodes are."""
