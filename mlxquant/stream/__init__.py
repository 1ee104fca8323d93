"""A model through its own forward, layer by layer, with the weights of one layer in memory.

engine      the pass: which step comes when, what is kept of it, what it reports (`options` has its input and result)
candidates  the models that take part, each with the weights of one step; `weights` makes their arrays
model       a model of mlx-lm's that is run one layer at a time; `probe` finds out whether it can be
cpu         a layer's heavy parts by numpy's BLAS, where mlx computes on a CPU
running     what the steps share: models, documents, streams of hidden states, a document through a layer
steps       the embedding, a layer, the head, for all models and documents
routing     what routers chose, seen from outside the model
state       hidden states, and what a killed pass goes on from; `ranks` splits the documents over machines
scores      what leaves the pass, and the sink that takes it
speed       how fast this machine computes and encodes

What the scores mean is not known here (see `divergence`). Rounding is `kernels`', the layout of a source `layout`'s.
"""

__all__ = ["candidates", "cpu", "engine", "model", "options", "ranks", "scores", "speed", "state"]
