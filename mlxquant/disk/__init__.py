"""The only gate to the file system: whole writes, locked work folders, journals, programs that are asked for a fact.

    files          every change to a file, so that tests can fail or kill the process at each
    outputs        files that a command is told to write, refused before any work where they must not be
    work_folder    unfinished work: its lock, its marker, the files that may be deleted
    journal        what a long run has finished, line by line with checksums, so that a killed one goes on
    programs       git, sysctl and the like, looked up and run so that a folder's settings do not reach them

What is in the files that it writes, other packages know.
"""

__all__ = ["files", "journal", "outputs", "programs", "work_folder"]
