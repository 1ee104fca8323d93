"""mlxquant: from a Hugging Face mixture-of-experts checkpoint to an audited MLX build.

A checkpoint flows one way: source -> plan -> build -> audit. Each arrow is a command, a module and a
record on disk. Nothing heavy is imported here, so `import mlxquant` and `mlxquant --help` are instant.
"""

__version__ = "0.1.0"
