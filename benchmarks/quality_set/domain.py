"""What a world with tools is: each a handful of schemas and ways in which a user may ask for something that needs them.

A request is (what the user says, the calls and what they return, what the assistant says). Results are made up when
they are asked for; what a later call needs (an id, a time) is taken from an earlier result. CC0 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Called = tuple[str, dict[str, Any], Any]  # name, arguments, result
Request = tuple[str, list[list[Called]], str]  # calls that depend on each other come in rounds
Ask = Callable[[Random], Request]


@dataclass(frozen=True)
class Domain:
    """A world: what the assistant is told, its tools, and what users ask."""

    name: str
    system: str
    tools: tuple[dict[str, Any], ...]
    asks: tuple[Ask, ...]


def tool(name: str, description: str, /, **parameters: str | tuple[str, ...]) -> dict[str, Any]:
    """A schema: each parameter a type, optionally with "?" and a description after a colon, or a tuple of values."""
    properties: dict[str, Any] = {}
    required = []
    for key, given in parameters.items():
        if isinstance(given, tuple):
            properties[key] = {"type": "string", "enum": list(given)}
        else:
            kind, _, words = given.partition(":")
            properties[key] = {"type": kind.rstrip("?"), **({"description": words} if words else {})}
        if isinstance(given, tuple) or not given.partition(":")[0].endswith("?"):
            required.append(key)
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}
