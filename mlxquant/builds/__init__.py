"""MLX builds on disk: written from a plan (`write`), read back (`read`), and the files that say what they are.

    write          a build from source, layout and plan, crash-safe and in bounded memory; the encoder is an argument
    read           any tool's build: what each module is, from its bytes
    audit_record   the audit: format, bytes, reason and error of every module
    facts          a build as a whole: identity, size, and what one token costs in it
    manifest       what was made from what, with the hash of every file
    methods        the encoder of a plan: each module by the method of its recipe
    side_files     config, tokenizer, templates: what goes along beside the weights

What a module becomes is decided in `plan`, what its numbers become in `kernels`; whether a build is right, in `check`.
"""

__all__ = ["audit_record", "facts", "manifest", "methods", "read", "side_files", "write"]
