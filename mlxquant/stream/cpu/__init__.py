"""A layer's heavy parts on a CPU by numpy's BLAS, in float32, in place of mlx's reference BLAS and its gathers.

forms      which parts have a fast form, and how a model takes them on; the only door
weights    a module's weight as float32, dequantized once a layer
products   dense layers, experts, heads: one matrix product each
attention  softmax(q kᵀ) v, head by head
delta      the gated delta rule, in chunks
pointwise  the activations between products
learning   products and the delta rule once more, with gradients
threads    one BLAS thread for each product, a pool over products

A part is known by what it is: the type of a module of mlx or of mlx-lm's shared modules, or a function of mlx-lm's that
a model's class calls. No model is known by name. Whatever is not known, and every call of another dtype or shape than
a form can do, is left to the model's own. On a GPU none of this is used.
"""

__all__ = ["forms"]
