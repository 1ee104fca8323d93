"""Reading an MLX build of any tool: files, headers and config, and what each module really is.

    build       the whole: modules, formats, disagreements
    formats     a module's format from the shapes of its arrays
    strays      tensors that mlx-lm's class has no place for, by their names
    computed    what mlx-lm computes from an older layout at each load
    loading     builds and tokenizers through mlx-lm, without running code of theirs
    templates   chat templates, in a process of their own, bounded

Formats come from the bytes; what the config says otherwise is a disagreement. Nothing is written here.
"""

__all__ = ["build", "formats", "loading", "templates"]
