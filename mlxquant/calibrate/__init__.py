"""What enters every quantizable module on calibration documents, gathered on the streamed pass.

inputs   sums of squares of each module's input columns, an expert each, taken down while the reference's layers run
record   the calibration file: mean squares, counts, and what they were made from
run      a calibration from end to end
weights  column weights for the encoder that weighs errors by input, with shrinkage for experts that few tokens reach

compensating  the encoder of plans that need documents: a pass that encodes layer by layer, then rows from its files
candidates    recipes that need documents, encoded within the pass that judges them
layers        what listens to such a pass: keeps a layer's inputs and encodes its modules
plans         one plan in such a pass: which modules, where they wait once encoded, what encodes all others
rows          inputs row by row, and moments of each expert; `room` has what they take of memory
encoded       modules encoded under moments, judged on documents held out, and the file of a layer
learned       what listens where layers are then learned
learning      a layer's integers, scales and biases learned against what it gave, by gradients

The pass itself is `stream`'s; which method encodes a module is the recipe's.
"""

__all__ = [
    "candidates", "compensating", "encoded", "inputs", "layers", "learned", "learning", "plans", "record", "room",
    "rows", "run", "weights",
]  # fmt: skip
