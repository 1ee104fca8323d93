"""What enters every quantizable module on calibration documents, gathered on the streamed pass.

inputs   sums of squares of each module's input columns, an expert each, taken down while the reference's layers run
record   the calibration file: mean squares, counts, and what they were made from
run      a calibration from end to end
weights  column weights for the encoder that weighs errors by input, with shrinkage for experts that few tokens reach

The pass itself is `stream`'s; which method encodes a module is the recipe's.
"""

__all__ = ["inputs", "record", "run", "weights"]
