"""Chat templates in the manner of real ones, in few lines: what each wants, refuses or drops is what theirs do."""

from __future__ import annotations

# JSON within tags; shows a think block in the last answer only; wants a user's question
TAGGED = """
{%- if not messages | selectattr('role', 'equalto', 'user') | list %}{{ raise_exception('no user') }}{% endif %}
{%- if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson + '\n' }}{% endfor %}
{{- 'Call them so: <tool_call>{"name": NAME, "arguments": ARGS}</tool_call><|im_end|>\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ m.content | trim }}
{%- for c in m.tool_calls or [] %}{{ '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
{{- (c.function.arguments if c.function.arguments is string else c.function.arguments | tojson) }}
{{- '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"""

# One element a parameter; arguments must be an object
ELEMENTS = """
{%- for t in tools or [] %}{{ '<|system|>' + t | tojson + '\n' }}{% endfor %}
{%- for m in messages %}{{ '<|observation|>' if m.role == 'tool' else '<|' + m.role + '|>' }}{{ '\n' }}
{%- if m.role == 'assistant' %}{{ '<think></think>\n' }}{% endif %}{{ m.content }}
{%- for c in m.tool_calls or [] %}{{ '\n<tool_call>' + c.function.name + '\n' }}
{%- for k, v in c.function.arguments.items() %}{{ '<arg_key>' + k + '</arg_key>\n<arg_value>' }}
{{- (v if v is string else v | tojson) + '</arg_value>\n' }}{% endfor %}{{ '</tool_call>' }}{% endfor %}{% endfor %}"""

# Users and assistants in turn, ids of nine characters, calls in a bracketed list with more keys
BRACKETS = """
{%- set said = messages | rejectattr('tool_calls') | rejectattr('role', 'equalto', 'tool') | list %}
{%- if said[0].role == 'system' %}{% set said = said[1:] %}{% endif %}
{%- for m in said %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}
{%- endif %}{% endfor %}
{%- for m in messages %}{% if m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
{%- elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for c in m.tool_calls %}
{%- if c.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' }}{{ ', ' if not loop.last }}{% endfor %}{{ ']</s>' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}
{%- else %}{% if tools and loop.first %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
{{- '[INST] ' + m.content + '[/INST]' }}{% endif %}{% endfor %}"""

# One call a message, whose words beside the call are dropped
SINGLE = """
{%- for t in tools or [] %}{{ t | tojson(indent=4) + '\n' }}{% endfor %}
{%- for m in messages %}{% set role = 'ipython' if m.role == 'tool' else m.role %}
{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}
{%- if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('only single tool calls') }}{% endif %}
{%- set f = m.tool_calls[0].function %}{{ '{"name": "' + f.name + '", "parameters": ' + f.arguments | tojson + '}' }}
{%- else %}{{ m.content }}{% endif %}{{ '<|eot_id|>' }}{% endfor %}"""

# Calls only where the content is null, their arguments as text
NULLS = """
{%- for t in tools or [] %}{{ t | tojson + '\n' }}{% endfor %}
{%- for m in messages %}{% if m.role == 'assistant' and m.content is not string %}{{ '<|Assistant|><|calls_begin|>' }}
{%- for c in m.tool_calls %}{{ '<|call_begin|>function<|sep|>' + c.function.name + '\n```json\n' }}
{{- c.function.arguments + '\n```<|call_end|>' }}{% endfor %}{{ '<|calls_end|><|eos|>' }}
{%- elif m.role == 'assistant' %}{{ '<|Assistant|>' + m.content + '<|eos|>' }}
{%- else %}{{ '<|' + m.role + '|>' + m.content }}{% endif %}{% endfor %}"""

# Channels: the recipient stands in the header, a call ends with a token of its own
CHANNELS = """
{%- for t in tools or [] %}{{ '// ' + t.function.description + '\ntype ' + t.function.name + ';\n' }}{% endfor %}
{%- for m in messages %}
{%- if m.tool_calls %}{% if m.content %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.content + '<|end|>' }}
{%- endif %}{% for c in m.tool_calls %}{{ '<|start|>assistant to=functions.' + c.function.name }}
{{- '<|channel|>commentary json<|message|>' + c.function.arguments | tojson + '<|call|>' }}{% endfor %}
{%- elif m.role == 'tool' %}{{ '<|start|>functions to=assistant<|message|>' + m.content + '<|end|>' }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"""

# Of a call only its id and arguments
IDS = """
{%- if tools %}{{ '<|im_system|>tools<|im_middle|>' + tools | tojson + '<|im_end|>' }}{% endif %}
{%- for m in messages %}{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' + m.content }}
{%- if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for c in m.tool_calls %}{{ '<|tool_call_begin|>' + c.id }}
{{- '<|tool_call_argument_begin|>' + c.function.arguments | tojson + '<|tool_call_end|>' }}{% endfor %}
{{- '<|tool_calls_section_end|>' }}{% endif %}{{ '<|im_end|>' }}{% endfor %}"""

# No system, no tools, strictly in turn
STRICT = """
{%- if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}
{%- endif %}{{ '<turn>' + m.role + '\n' + m.content | trim + '</turn>\n' }}{% endfor %}"""

ALL = {
    "tagged": TAGGED, "elements": ELEMENTS, "brackets": BRACKETS, "single": SINGLE, "nulls": NULLS,
    "channels": CHANNELS, "ids": IDS, "strict": STRICT,
}  # fmt: skip
