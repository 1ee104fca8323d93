"""Documents to compare on: JSONL or the built-in set, as tokens with turns and slices.

documents   lines of a file to documents; what a line may hold, and what is wrong with one
render      conversations through the checkpoint's chat template; `chat_forms` reshapes what a template refuses
marks       where each message's words stand in the rendered text
spans       stretches that are slices of their own: tool calls, JSON, numbers
tokens      tokens of a text, and the characters that each stands for

The built-in set is in `data`. No model is loaded here, and nothing is generated.
"""

__all__ = ["documents", "tokens"]
