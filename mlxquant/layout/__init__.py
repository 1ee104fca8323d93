"""From the names and shapes of a checkpoint to the MLX model that mlx-lm would load from it; no weight is read.

    layout      read_layout: modules with role, layer, dtypes and the views that fill them
    provider    whose model classes a checkpoint is laid out with: mlx-lm's, or mlx-vlm's where it has none
    mlx_lm      mlx-lm's model classes, without the cost of importing mlx_lm
    mlx_vlm     mlx-vlm's, likewise
    class_config  a config as the class has to read it; class_fields and class_derived: what is known of classes
    text_model  a build of mlx-vlm's, loaded and called as mlx-lm's models are
    arrays      the arrays of the model, and which tensors each is made of
    expert_stacks  forms of experts that a class does not know
    mismatches  arrays that the model wants and a checkpoint has not, and why
    roles       role, layer and layer type of each module, experts used per token
    carried     a vision tower and a next-token head, which mlx-lm drops and a build may carry along
    kept        packed modules whose bits mlx can use as they are; the bytes that a source stores
    context     the memory that a context takes
    views/      arrays that remember which bytes of which file they are made of, and reading them

What is decided on the modules is for `plan`; how a build on disk is read, for `builds.read`.
"""

__all__ = ["arrays", "carried", "context", "kept", "layout", "mlx_lm", "provider", "roles", "views"]
