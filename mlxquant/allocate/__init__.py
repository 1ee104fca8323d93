"""Bits where they count: a format for every module under a budget of bytes, by what each choice does to the output.

groups      what is decided together, its choices and their bytes
measure     the KL of each group quantized alone, in the streamed pass
solve       the best choices under a budget, exactly
rounds      measuring and solving in turn, until what is chosen has been measured
recipe      the choices as an ordinary recipe, with reasons in figures
contest     the recipe beside shipped ones of at most the same bytes, on other documents
budgets     a machine's memory, bits per weight or tokens a second, in bytes
shares      documents for each purpose, told apart by their hash
folder      the work folder, for a killed run to go on
run         all of it
record      what came out, as a record
"""

__all__ = ["budgets", "contest", "folder", "groups", "measure", "recipe", "record", "rounds", "run", "shares", "solve"]
