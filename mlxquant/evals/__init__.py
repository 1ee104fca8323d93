"""The same prompts through two models, and what differs: agent loops at depth, contracts, serving figures.

    items      what is asked and answered; what a suite is
    sides      who answers: an OpenAI-compatible endpoint (`served`) or a build loaded here (`loaded`)
    run        every item through every side in turn, kept as it goes (`kept`), each request traced (`trace`)
    loop       the `tool-loop` suite: a store, a scripted user, 5 to 200 calls; `catalog` names all suites
    record     paired statistics, by slice and by depth, with intervals; `text` prints them

Sides are judged by programs alone, never by a model. What could not be asked (a server that is gone, a timeout) is
counted apart and is never a failure of the model.
"""
