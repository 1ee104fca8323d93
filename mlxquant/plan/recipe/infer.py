"""The recipe that a build amounts to: formats in, a short TOML text out.

The way back from decisions to rules. The default is a format that the build uses; every role is described by one
format and its exceptions; exceptions by layer type, by the names of modules, by layers, and as a last resort one
by one. Rules that ask the same of different roles are joined. Of all defaults the one that needs the fewest rules
wins, or among equals the one that holds the most parameters. What comes out is checked: laid over the same modules
it gives the same formats.

It finds what a build is, not why: reasons say what was seen. Only what mlx can quantize is described, since no
rule decides on the rest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import BuildError, MlxquantError
from ...words.formats import Format, FormatChoice
from ...words.layers import layers_text, parse_layers
from ...words.modules import Module
from ...words.text import counted
from ..decide import decide
from .recipe import parse_recipe
from .rules import Match, merged

_Label = Callable[[Module], FormatChoice | None]


@dataclass(frozen=True, slots=True)
class _Exception:
    """Modules that share a format, and the match that finds just them within their roles."""

    match: Match
    format: FormatChoice | None
    members: tuple[Module, ...]


@dataclass(frozen=True, slots=True)
class _Draft:
    """One way to write the build down."""

    default: FormatChoice | None
    unaligned: str
    rules: tuple[_Exception, ...]

    def written(self, name: str, reference: str, summary: str, left_out: Sequence[str] = ()) -> str:
        """The recipe as TOML."""
        lines = [f"# {line}" for line in left_out]
        lines += [f"name = {_toml(name)}", f"summary = {_toml(summary)}"]
        lines += [f"reference = {_toml(reference)}"] if reference else []
        if self.default is None:
            lines += ["quantize = false"]
        else:
            lines += ["", "[quantize]", *_asks(self.default, None)]
            lines += [f"unaligned = {_toml(self.unaligned)}"] if self.unaligned != "error" else []
        for rule in self.rules:
            match = ", ".join(f"{key} = {_toml(value)}" for key, value in rule.match.as_dict().items())
            action = _asks(rule.format, self.default) if rule.format else ["keep = true"]
            lines += ["", "[[rules]]", f"match = {{ {match} }}", *action, f"reason = {_toml(_seen(rule))}"]
        return "\n".join(lines) + "\n"


def recipe_of(
    modules: Sequence[Module],
    formats: Mapping[str, Format | None],
    *,
    n_layers: int,
    name: str = "from-build",
    reference: str = "",
    left_out: Sequence[str] = (),
) -> str:
    """Write the shortest recipe that gives `modules` these formats (path → Format, None for unquantized).

    `left_out` are lines on modules that were not understood: they become comments.

    Raises BuildError where no recipe can, as for a format that mlx does not have.
    """
    subject = [m for m in modules if m.quantizable and not (m.prequantized and formats.get(m.path) == m.prequantized)]
    drafts = []
    for default in _defaults(subject, formats):
        for unaligned in ("error", "keep") if default else ("error",):
            rules = _rules(subject, _labels(formats, default, unaligned), default, n_layers)
            drafts.append(_Draft(default, unaligned, tuple(rules)))
    drafts.sort(key=lambda draft: len(draft.rules))  # stable: earlier defaults hold more
    first = drafts[0].default
    label = _labels(formats, first, "error")
    spelt = (_spelt_out(m, label(m)) for m in subject if label(m) != first)
    wrong = ""
    for draft in (*drafts, _Draft(first, "error", tuple(spelt))):
        text = draft.written(name, reference, _summary(subject, formats), left_out)
        wrong = _differs(text, modules, subject, formats, n_layers)
        if not wrong:
            return text
    raise BuildError(f"no recipe gives this build's formats: {wrong}")


def _defaults(subject: Sequence[Module], formats: Mapping[str, Format | None]) -> list[FormatChoice | None]:
    """What the default may be: the formats in use, those of most parameters first; None if nothing is quantized.

    One with its smaller group sizes in use follows the one without, so that it is taken where it saves a rule.
    """
    held: Counter[Format] = Counter()
    for module in subject:
        if chosen := formats.get(module.path):
            held[chosen] += module.parameters
    choices: list[FormatChoice | None] = []
    for chosen, _ in held.most_common():
        alike = {f.group_size for f in held if (f.bits, f.mode) == (chosen.bits, chosen.mode)}
        sizes = sorted((size for size in alike if size <= chosen.group_size), reverse=True)
        choices += [FormatChoice.of(chosen)]
        choices += [FormatChoice(chosen.bits, tuple(sizes), chosen.mode)] if len(sizes) > 1 else []
    return choices or [None]


def _summary(subject: Sequence[Module], formats: Mapping[str, Format | None]) -> str:
    counts = Counter(formats.get(m.path) for m in subject).most_common()
    parts = [f"{counted(n, 'module')} {chosen or 'unquantized'}" for chosen, n in counts] or ["no modules"]
    return f"As built: {', '.join(parts)}"


def _differs(
    text: str,
    modules: Sequence[Module],
    subject: Sequence[Module],
    formats: Mapping[str, Format | None],
    n_layers: int,
) -> str:
    """Why the recipe does not give the formats back, or nothing if it does."""
    try:
        decisions = decide(parse_recipe(text), modules, n_layers=n_layers).by_path
    except MlxquantError as error:
        return str(error)
    return next((m.path for m in subject if decisions[m.path].format != formats.get(m.path)), "")


def _labels(formats: Mapping[str, Format | None], default: FormatChoice | None, unaligned: str) -> _Label:
    """The format to ask for each module: the default where it gives that, or with unaligned = keep leaves it so."""

    def label(module: Module) -> FormatChoice | None:
        chosen = formats.get(module.path)
        if default is not None and chosen == default.at(module.shape[-1]) and (chosen or unaligned == "keep"):
            return default
        return FormatChoice.of(chosen) if chosen else None

    return label


def _rules(subject: Sequence[Module], label: _Label, default: FormatChoice | None, n_layers: int) -> list[_Exception]:
    """Rules in order: what is special within a role, then roles that differ from the default."""
    special: list[_Exception] = []
    whole: list[_Exception] = []
    for role in dict.fromkeys(m.role for m in subject):
        members = [m for m in subject if m.role == role]
        most = Counter(label(m) for m in members).most_common()[0][0]
        options = []
        for base in dict.fromkeys((default, most)):
            exceptions = _exceptions(members, label, base, n_layers)
            general = [] if base == default else [_Exception(Match(role=(role,)), base, tuple(members))]
            if any(label(m) == base for m in members):
                options.append((len(exceptions) + len(general), exceptions, general))
        _, exceptions, general = min(options, key=lambda option: option[0])
        special += exceptions
        whole += general
    return [*_joined(special, subject, n_layers), *_joined(whole, subject, n_layers)]


def _exceptions(members: Sequence[Module], label: _Label, base: FormatChoice | None, n_layers: int) -> list[_Exception]:
    """Describe those of a role that differ from its base format, one group for each format."""
    exceptions = []
    for chosen in dict.fromkeys(label(m) for m in members):
        if chosen != base:
            group = [m for m in members if label(m) == chosen]
            exceptions += [
                _Exception(match, chosen, tuple(part)) for match, part in _described(group, members, n_layers)
            ]
    return exceptions


def _described(
    group: Sequence[Module], members: Sequence[Module], n_layers: int
) -> Sequence[tuple[Match, Sequence[Module]]]:
    """Matches that find exactly `group` among `members`, all of one role: the broadest words that will do."""
    role = Match(role=(group[0].role,))
    tails = tuple(dict.fromkeys(_tail(m) for m in group))
    for match in (role, *_by_depth(role, group), replace(role, path=tails)):
        if match.hits(members, n_layers) == list(group):
            return [(match, group)]
    parts = []
    for tail in tails:
        part = [m for m in group if _tail(m) == tail]
        named = replace(role, path=(tail,))
        exact = (match for match in (named, *_by_depth(named, part)) if match.hits(members, n_layers) == part)
        parts.append((next(exact, Match(path=tuple(m.path for m in part))), part))
    return parts


def _by_depth(match: Match, group: Sequence[Module]) -> list[Match]:
    """A match narrowed to the group's layer types, and to its layers."""
    if any(m.layer is None for m in group):
        return []
    types = tuple(dict.fromkeys(m.layer_type for m in group if m.layer_type))
    layers = parse_layers(layers_text([m.layer for m in group if m.layer is not None]))
    typed = [replace(match, layer_type=types)] if types else []
    return [*typed, replace(match, layers=layers)]


def _tail(module: Module) -> str:
    """A glob for the module's namesakes in other layers: what follows the layer's index."""
    before, index, after = module.path.partition(f".{module.layer}.")
    return f"*.{after}" if module.layer is not None and index and before else module.path


def _joined(rules: Sequence[_Exception], subject: Sequence[Module], n_layers: int) -> list[_Exception]:
    """Join rules that ask the same at the same depth, as long as the join finds no module more."""
    done: list[_Exception] = []
    for rule in rules:
        for i, other in enumerate(done):
            if both := _join(other, rule, subject, n_layers):
                done[i] = both
                break
        else:
            done.append(rule)
    return [_without_role(rule, subject, n_layers) for rule in done]


def _join(one: _Exception, two: _Exception, subject: Sequence[Module], n_layers: int) -> _Exception | None:
    a, b = one.match, two.match
    alike = (a.layer_type, bool(a.layers), bool(a.path)) == (b.layer_type, bool(b.layers), bool(b.path))
    if not alike or one.format != two.format:
        return None
    joined = replace(a, role=_union(a.role, b.role) if a.role and b.role else (), path=_union(a.path, b.path))
    members = (*one.members, *two.members)
    # where each lists its own layers, those of one may do for both: some layers lack the other's modules
    for match in (joined, replace(joined, layers=b.layers)):
        if set(match.hits(subject, n_layers)) == set(members):
            return _Exception(match, one.format, members)
    return None


def _union(one: Iterable[str], two: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *two)))


def _without_role(rule: _Exception, subject: Sequence[Module], n_layers: int) -> _Exception:
    """Leave the role out where the path alone finds the same."""
    bare = replace(rule.match, role=())
    same = bool(bare.path) and set(bare.hits(subject, n_layers)) == set(rule.members)
    return replace(rule, match=bare) if same else rule


def _spelt_out(module: Module, chosen: FormatChoice | None) -> _Exception:
    return _Exception(Match(path=(module.path,)), chosen, (module,))


# --- text ---


def _asks(chosen: FormatChoice, default: FormatChoice | None) -> list[str]:
    """The keys that give formats over a default, no more than it takes."""
    if chosen == default:
        return ['use = "default"']
    mode = None if default and chosen.mode == default.mode else chosen.mode
    keys = [f"bits = {chosen.bits}"]
    if default is None or merged(default, chosen.bits, None, mode).group_sizes != chosen.group_sizes:
        keys.append(f"group_size = {_toml(chosen.as_dict()['group_size'])}")
    if mode and not (default is None and mode == "affine"):
        keys.append(f"mode = {_toml(mode)}")
    return keys


def _seen(rule: _Exception) -> str:
    roles = Counter(m.role for m in rule.members)
    what = ", ".join(f"{count:,} {role}" for role, count in roles.items())
    return f"as built: {what} {'in ' + str(rule.format) if rule.format else 'not quantized'}"


def _toml(value: object) -> str:
    """A text, number or list of them; JSON's spelling of these is TOML's too."""
    return json.dumps(value, ensure_ascii=False)
