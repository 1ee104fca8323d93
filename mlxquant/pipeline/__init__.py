"""The whole story of a build, from a checkpoint and texts to a build with a verdict, as one resumable run.

documents    the documents of each purpose
forecast     what it takes, told before the first step
folder       OUT.work: the records of all steps, and what the step at work goes on from
record       build.json: what was asked, and which steps are done
settings     what is asked for, and who hears of the steps
run          the steps, each by the library of its own command
unfinished   work that any command left unfinished in a folder, listed and thrown away

Nothing is measured, chosen or written here that another package does not measure, choose or write.
"""

__all__ = ["documents", "folder", "forecast", "record", "run", "settings", "unfinished"]
