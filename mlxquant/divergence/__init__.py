"""Judge recipes and builds against the full-precision model, in one streamed pass over its weights."""
