"""Whether a build is what it says, and how two differ: all of it from the bytes, nothing is written.

audit            what every module is, held against the build's own record
against_source   the errors of a build, measured against its checkpoint
verify           every byte against the manifest; headers, index and config against each other
remake           a sample made again from the source, compared byte for byte
load             what mlx-lm and mlx-vlm make of a build
recipe           the recipe that a build amounts to
diff, distance   two recipes, plans or builds side by side; how far the values of two builds are apart
"""

__all__ = ["against_source", "audit", "diff", "distance", "load", "recipe", "remake", "verify"]
