"""Recipes: which precision each module of a model gets, as data with reasons.

    recipe      load and check a recipe with what it extends and the command line's changes
    rules       what a rule matches and asks for; its forms in TOML and behind --set
    files       shipped recipes by name, others by path, the chain of `extends`
    variation   a recipe with changes in one word: ``gates-8bit:bits=4``
    infer       the recipe that a build amounts to

A recipe is read without a model; `plan.decide` applies it to one. No module here imports mlx or numpy.
"""

__all__ = ["files", "infer", "recipe", "rules", "variation"]
