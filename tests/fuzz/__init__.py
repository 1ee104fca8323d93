"""Fuzzing what reads files of strangers: headers, indexes, configs, recipes, manifests.

``python -m tests.fuzz header --cases 1000000 --seed 7`` tries a target for as long as one likes; inputs that fail
are printed and, with ``--keep``, saved to the corpus, which every test run tries again.
"""
