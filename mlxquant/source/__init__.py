"""A checkpoint, in a folder or on the Hub: its config, the headers of its shards, and reads of their bytes by position.

    checkpoint      open_checkpoint, Checkpoint, Reader
    headers         safetensors headers, checked as if a stranger had written them
    foreign         what a folder is that holds no checkpoint, and what to do
    index           the index, held against the headers of the shards
    packed/         which quantized sources can be read, and their values as floats
    remote_code     code that a checkpoint names, which is never run
    links           links that lead out of a folder, which are not followed
    tokenizer       whether there is one, and what of it a build leaves out
    stamps          whether a source is still the one it was
    hub/            the same of a repository on the Hub

Which tensors make which MLX array is for `layout`.
"""

__all__ = ["checkpoint", "headers", "hub", "index", "links", "packed", "remote_code", "stamps", "tokenizer"]
