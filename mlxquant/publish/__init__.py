"""Putting a build where others find it: on the Hub, with a model card made from its records, or in LM Studio.

`upload` checks the build first, shows what would go, and uploads the build's own files alone. It makes no figures:
what the card says comes from the manifest, the audit and the records that are given. `lm_studio` knows where LM
Studio looks for models, and whether a build there brings its vision tower along.
"""

__all__ = ["lm_studio", "upload"]
