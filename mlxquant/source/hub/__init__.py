"""A checkpoint on the Hub: found, listed, and read by ranges or shards, whatever the server sends.

    open         SOURCE as a person types it: a folder or a Hub id
    cached       the copy in the cache, where the Hub cannot be asked
    listing      the files of a commit, checked before they are believed
    client       requests bounded in bytes and time, with huggingface_hub's session and token
    repository   files and shards, held against the listing's hashes
    reader       ranges of shards for a pass that streams
    session      huggingface_hub's own client, bounded, for uploads
    errors       what went wrong, in one line

The cache has huggingface_hub's layout. Nothing received is trusted: see docs/trust.md.
"""

__all__ = ["client", "errors", "open", "reader", "repository", "session"]
