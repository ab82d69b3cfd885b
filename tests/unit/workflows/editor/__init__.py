"""Documents of the editor, converted."""
