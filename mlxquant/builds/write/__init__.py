"""Writing the build that a plan describes: pieces of tensors are read, encoded, written in their place and recorded.

    convert   builds from end to end, one or several from one reading, resumed where an earlier run ended
    work      what that comes down to beforehand, and what is refused
    opening   what it takes: bytes, room, time
    making    the portions of work, and the pass over them
    pieces    a row range of an output tensor, and the source's bytes that it needs
    workers   the ordered pool of threads that encodes them
    shards    where each tensor lies in the build's files
    partial   OUT.partial, until the build is complete
    hashing   SHA-256 and checksums on the way

The bytes do not depend on the number of workers, or on how often the work was interrupted.
"""

__all__ = ["convert", "hashing", "making", "opening", "partial", "pieces", "shards", "work", "workers"]
