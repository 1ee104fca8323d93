"""Checkpoints made on the spot, in the Hub's layout: for the demo, the tests and the benchmark.

They have the names, shapes, dtypes and files of real models and gaussian values, so that everything but the sense of
what a model says can be tried without a download.
"""

from .qwen3_5_moe import write_tiny_qwen3_5_moe

__all__ = ["write_tiny_qwen3_5_moe"]
