"""The same prompts through two models, and what differs: agent loops at depth, contracts, serving figures.

    items      what is asked and answered; what a suite is
    sides      who answers: an OpenAI-compatible endpoint (`served`, its answers put together by `streamed`) or a build
               loaded here (`loaded`, its texts taken apart by `replies`); `opening` makes them from what a user names
    run        every item through every side in turn, kept in a journal, each request (`asking`) traced (`trace`)
    suites     what can be played; `suites.tool_loop` plays loops in the store of `store`
    figures    shares, paired differences and serving figures of trials, with intervals; `record` is made of them

Sides are judged by programs alone, never by a model. What could not be asked (a server that is gone, a timeout) is
counted apart and is never a failure of the model. Texts of the record are in `report`.
"""

__all__ = ["asking", "identity", "items", "loaded", "opening", "replies", "run", "sides", "store", "suites", "trace"]
