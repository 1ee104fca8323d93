"""How far recipes and builds are from the full-precision model: KL and routing, on documents, with intervals.

record      a comparison from end to end, and its record
tally       the sink of the streamed pass: scores reduced to sums a document
statistics  from those sums to measurements and verdicts
texts       documents: read, rendered by the chat template, tokenized, with spans

Nothing is generated, and the pass itself is `stream`'s. What damage is acceptable is judged in `validate`.
"""

__all__ = ["record", "statistics", "texts"]
