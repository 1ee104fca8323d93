"""Views: what a model class's `sanitize` makes of stored tensors, recorded instead of computed, then read by rows.

    view        View and ArrayLike, which stand in for mx.array
    record      lets functions of mlx.core record when they are called on views
    strided     windows on the bytes of one tensor, and gathering their rows
    read        rows of any view, by positioned reads
    tiles       copying a matrix whose axes run the other way
    bytes       dtypes of safetensors in mlx, bytes as arrays and back

No architecture is known here; which views a model needs is for `layout.arrays`.
"""

__all__ = ["bytes", "read", "record", "strided", "view"]
