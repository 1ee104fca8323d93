"""From a recipe and a layout to a plan: the format, the bytes and the reason of every module, before a weight is read.

    recipe/     recipes as data: files, rules, variations, and the way back from a build
    decide      rules × modules → a decision for each module
    plan        decisions → every array of the build, totals, the plan record
    predicate   a recipe as the `quant_predicate` of mlx_lm.convert
    fits        which builds fit a memory, with the cache of a context

Nothing here quantizes or writes (see `kernels`, `builds`), or knows an architecture (see `layout`).
"""

__all__ = ["decide", "evidence", "fits", "plan", "predicate", "recipe"]
