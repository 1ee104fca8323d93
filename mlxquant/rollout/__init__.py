"""Bring a quantized candidate to where traffic flows: mirrored, for cohorts, for a part, for all, and back.

Teams put a gateway before their servers; this package writes the configuration of one that they run, LiteLLM's proxy,
and reads what it logs. Nothing is served, forwarded or restarted here.

    deployments    the plan of a rollout, and which deployments its stages have
    configuration  the plan as LiteLLM's YAML: all stages in one file, one line of which says which is in force
    status         which stage a file is in, what was edited in it, and the file with another stage
    payloads, calls, pairing   what LiteLLM logged, entry by entry, and put together
    record         what that says of both sides, as `validate` and `report` take it
"""

__all__ = ["configuration", "deployments", "pairing", "record", "status"]
