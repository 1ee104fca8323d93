"""Putting a verified build on the Hub, with a model card made from its records.

`upload` checks the build first, shows what would go, and uploads the build's own files alone. It makes no figures:
what the card says comes from the manifest, the audit and the records that are given.
"""

__all__ = ["upload"]
