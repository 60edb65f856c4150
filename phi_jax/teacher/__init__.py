"""Any OpenAI-compatible language model as a teacher: asked once, paid once, never beyond the cap."""
