"""An OpenAI-compatible server as a client sees it; `bench` and `evals` both ask through here.

    client    an address, one streamed completion with the time of each piece, token counts
    events    one event of a stream: a stranger's JSON into typed fields
    wire      one request over HTTP/1.1, bounded in time and in bytes

A server is not trusted: what it sends is checked, cut and redacted before anything is made of it. What is asked, and
what an answer is worth, the callers know.
"""

__all__ = ["client", "events", "wire"]
