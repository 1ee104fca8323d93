"""What the tensors of a build are: modules with roles, and the format of each, read from shapes and dtypes alone.

Modules and their widths come from the class that mlx-lm, or else mlx-vlm, has for the model, formats from that and the
shapes of what is stored (`formats`); what the class has no place for is grouped by names, there as well.

Nothing here is refused: what does not fit is a sentence in `disagreements`, and the rest is read all the same.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import LayoutError, MlxquantError
from ...layout.arrays import parameters_of, sanitized, tensors_of
from ...layout.layout import lay_modules
from ...layout.provider import MLX_LM, Provider, provider_of
from ...layout.views.bytes import SAFETENSORS_DTYPES
from ...layout.views.view import View, source_view
from ...source.checkpoint import Checkpoint
from ...words.formats import FLOATS, TORCH_DTYPES, Format
from ...words.modules import UNREAD, Module
from ...words.text import counted, some
from ...words.units import show_bytes
from .computed import computed_view, is_computed
from .files import Claims
from .formats import Stored, packed_format, shown
from .strays import role_by_name, stored_by_names, with_strays


@dataclass(frozen=True)
class BuildLayout:
    """A build's modules in the model's order, then those that mlx-lm's class has no place for.

    `moved` says that arrays of the model come from tensors of other names, as in the Hub's layout. `absent` are
    modules of which the shards hold nothing. `provider` is whose class it is.
    """

    stored: tuple[Stored, ...]
    known: bool
    n_layers: int = 0
    moved: bool = False
    disagreements: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    absent: tuple[Module, ...] = ()
    provider: Provider = MLX_LM


def lay_out_build(checkpoint: Checkpoint, claims: Claims, provider: str | None = None) -> BuildLayout:
    """Find out what every tensor of a build is. `provider` is the name that its manifest states, if it does."""
    disagreements, notes = list[str](), list[str]()
    chosen = _provider(checkpoint.config, provider, notes)
    config = chosen.prepared(checkpoint.config)
    model = None if notes else _model(config, chosen, disagreements, notes)
    if model is None:
        stored = stored_by_names(checkpoint, list(checkpoint.tensors), claims)
        notes += _unread_note(stored)
        return BuildLayout(tuple(stored), False, _depth(stored), False, tuple(disagreements), tuple(notes))
    views = _views(model, checkpoint, chosen, config, disagreements)
    arrays = _Arrays(checkpoint, views)
    modules, stored, n_layers = _stored_modules(model, config, arrays, chosen, disagreements, notes)
    unused = [n for n in checkpoint.tensors if n not in arrays.used]
    stored = with_strays(stored, stored_by_names(checkpoint, unused, claims, modules))
    loaded = {t for v in views.values() for t in tensors_of(v)}
    notes += _unused_note(checkpoint, [n for n in unused if n not in loaded], config)
    notes += [*_fused_note(stored), *_unread_note(stored)]
    paths = {s.module.path for s in stored}
    absent = tuple(m for m in modules if m.path not in paths)
    return BuildLayout(tuple(stored), True, n_layers, arrays.moved, tuple(disagreements), tuple(notes), absent, chosen)


_BY_NAMES = "so roles here go by names, and formats by what the config says where shapes allow it"


def _provider(config: Mapping[str, Any], name: str | None, notes: list[str]) -> Provider:
    """Whose classes to lay the build out with; a note where those that it needs are not installed."""
    try:
        return provider_of(config, name)
    except LayoutError as error:
        notes.append(f"{error}; {_BY_NAMES}")
        return MLX_LM


def _model(config: dict[str, Any], provider: Provider, disagreements: list[str], notes: list[str]) -> Any:
    """The provider's model; None, with the reason among the notes or disagreements, where there is none."""
    try:
        provider.import_class(config)
    except LayoutError as error:
        notes.append(f"{error}; {_BY_NAMES}")
        return None
    try:
        return provider.build_model(config)
    except LayoutError as error:
        disagreements.append(f"{error}; so roles here go by names")
        return None


def _views(
    model: Any, checkpoint: Checkpoint, provider: Provider, config: Mapping[str, Any], disagreements: list[str]
) -> Mapping[str, View]:
    """What the provider would load under which name; the tensors as they are where its sanitize cannot take them."""
    try:
        return sanitized(model, checkpoint, provider, config)
    except MlxquantError as error:
        disagreements.append(str(error))
    return {n: source_view(t) for n, t in checkpoint.tensors.items() if t.dtype in SAFETENSORS_DTYPES.values()}


@dataclass
class _Arrays:
    """The stored bytes behind the arrays that mlx-lm loads: call it with a name.

    `used` are the tensors that were taken as they are, `requested` the names that were asked for and are there, `moved`
    says that an array came from tensors of another name or shape.
    """

    checkpoint: Checkpoint
    views: Mapping[str, View]
    used: set[str] = field(default_factory=set)
    requested: set[str] = field(default_factory=set)
    moved: bool = False

    def __call__(self, name: str) -> View | None:
        """The view of an array; of the tensor of that name itself where there is one of that shape."""
        view, tensor = self.views.get(name), self.checkpoint.tensors.get(name)
        if view is None:
            return None
        self.requested.add(name)
        if tensor is not None and tensor.shape == view.shape:
            self.used.add(name)
            return source_view(tensor)
        self.moved = True
        return view

    def take(self, views: Iterable[View]) -> None:
        """Note the tensors of views that are used as they are."""
        self.used.update(t for v in views for t in tensors_of(v))


def _stored_modules(
    model: Any,
    config: dict[str, Any],
    arrays: _Arrays,
    provider: Provider,
    disagreements: list[str],
    notes: list[str],
) -> tuple[tuple[Module, ...], list[Stored], int]:
    """The class's modules, those of them that the shards hold, and the number of layers."""
    shapes = parameters_of(model)
    # views of the class's own arrays, and of the scales that quantizing adds beside a weight
    present = {name: view for name in shapes if (view := arrays(name)) is not None}
    packed = {p: s for name in shapes if (p := _packed_path(name, shapes)) and (s := arrays(f"{p}.scales")) is not None}
    assumed = _config_dtype(config) or "BF16"
    dtypes = {name: _values_dtype(name, present, packed, assumed) for name in shapes}
    try:
        # arrays have one dtype here: a build is not cast
        modules, layers = lay_modules(model, config, shapes, {n: (d, d) for n, d in dtypes.items()}, {}, provider)
    except LayoutError as error:
        disagreements.append(str(error))
        bare: dict[str, Any] = {"vocab_size": config.get("vocab_size")}
        modules, layers = lay_modules(model, bare, shapes, {n: (d, d) for n, d in dtypes.items()}, {}, provider)
    stored = list[Stored]()
    for module in modules:
        entry = _stored(module, present, packed, arrays)
        if entry is None:  # what is left of it, such as its scales, is found among the tensors without a place
            continue
        disagreements += _misshapen(entry, shapes)
        arrays.take(entry.views.values())
        stored.append(_readable(entry, arrays.checkpoint))
    disagreements += [
        f"{n}: not in the shards; {provider.name} cannot load the build without it" for n in shapes if n not in present
    ]
    strays = [n for n in arrays.views if n not in arrays.requested]
    disagreements += [
        f"{n}: in the shards, but {provider.name}'s {config['model_type']} has no such array" for n in strays
    ]
    notes += _computed_note([s for s in stored if s.computed], arrays.checkpoint)
    notes += _dtype_notes(stored, model, config)
    return modules, stored, len(layers.layers)


def _packed_path(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The module whose weight `name` is, if its scales are none of the class's own arrays; else nothing."""
    path, _, suffix = name.rpartition(".")
    return path if suffix == "weight" and f"{path}.scales" not in shapes else ""


def _values_dtype(name: str, present: Mapping[str, View], packed: Mapping[str, View], assumed: str) -> str:
    """The dtype of an array's values: that of the scales where it is packed with float scales."""
    path, _, suffix = name.rpartition(".")
    if suffix == "weight" and path in packed:
        dtype = SAFETENSORS_DTYPES[packed[path].dtype]
        return dtype if dtype in FLOATS else assumed
    return SAFETENSORS_DTYPES[present[name].dtype] if name in present else assumed


def _stored(module: Module, present: Mapping[str, View], packed: Mapping[str, View], arrays: _Arrays) -> Stored | None:
    """What the shards hold of a module; None where that is not even its weight."""
    names = {a.name: f"{module.path}.{a.name}" if a.name else module.path for a in module.arrays}
    views = {suffix: present[name] for suffix, name in names.items() if name in present}
    weight = views.get(module.weight.name)
    if weight is None:
        return None
    dtype = SAFETENSORS_DTYPES[weight.dtype]
    if module.path not in packed:
        bare = f"weight {shown(weight)} without scales, where a matrix {list(module.shape)} is expected"
        return Stored(module, None, dtype, views, bare if dtype not in FLOATS and module.quantizable else None)
    views["scales"] = packed[module.path]
    for extra in ("biases", "global_scale"):
        if (view := arrays(f"{module.path}.{extra}")) is not None:
            views[extra] = view
    fmt = packed_format(module.shape, views)
    dtype = SAFETENSORS_DTYPES[views["scales"].dtype]
    return Stored(module, fmt, dtype, views) if isinstance(fmt, Format) else Stored(module, None, dtype, views, fmt)


def _readable(entry: Stored, checkpoint: Checkpoint) -> Stored:
    """The same with views that can be read by blocks, and the paths that its tensors have where those are others."""
    tensors = {s: [checkpoint.tensors[n] for n in dict.fromkeys(tensors_of(v))] for s, v in entry.views.items()}
    names = dict.fromkeys(t.name.rpartition(".")[0] for group in tensors.values() for t in group)
    computed = {s: v for s, v in entry.views.items() if is_computed(v) and tensors[s]}
    path = entry.module.path
    views = {s: computed_view(f"{path}.{s}", v, tensors[s]) if s in computed else v for s, v in entry.views.items()}
    origins = tuple(n for n in names if n not in (path, path.rpartition(".")[0]))
    return replace(entry, views=views, origins=origins, computed=bool(computed))


def _misshapen(entry: Stored, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = [f"{entry.module.path}: {entry.trouble}"] if entry.trouble and "weight" in entry.views else []
    quantized = entry.format is not None or entry.trouble is not None
    for suffix, view in entry.views.items():
        name = f"{entry.module.path}.{suffix}" if suffix else entry.module.path
        if name in shapes and view.shape != shapes[name] and not (quantized and suffix == "weight"):
            problems.append(
                f"{name}: {list(shapes[name])} expected from config.json, {list(view.shape)} found in the shards"
            )
    return problems


# --- notes ---


def _computed_note(stored: Sequence[Stored], checkpoint: Checkpoint) -> list[str]:
    """Say what mlx-lm makes anew at each load, and whether its bytes are those of the shards."""
    if not stored:
        return []
    first = stored[0]
    note = (
        f"{counted(len(stored), 'module')} are computed by mlx-lm each time it loads the build, from tensors of an"
        f" older layout (the first: {first.module.path} from {some(first.origins, 1)}); listed is the result"
    )
    names = {name for s in stored for view in s.views.values() for name in tensors_of(view)}
    loaded, held = sum(s.nbytes for s in stored), sum(checkpoint.tensors[name].nbytes for name in names)
    return [note if loaded == held else f"{note} ({show_bytes(loaded)} of {show_bytes(held)} in the shards)"]


def _fused_note(stored: Sequence[Stored]) -> list[str]:
    """Name modules that hold several of the class's in one."""
    fused = [s.module.path for s in stored if s.fused]
    if not fused:
        return []
    return [
        f"{counted(len(fused), 'module')} each hold several of mlx-lm's tensors in one, which its class does not split:"
        f" {some(fused, 3)}"
    ]


def _unread_note(stored: Sequence[Stored]) -> list[str]:
    """Name what is counted in bytes alone."""
    unread = [s for s in stored if s.module.kind == UNREAD]
    if not unread:
        return []
    size = sum(s.nbytes for s in unread)
    return [
        f"{counted(len(unread), 'module')} ({show_bytes(size)}) packed in a way that mlx does not have, or in parts:"
        f" {some([s.module.path for s in unread], 3)}; their parameters are not known, and bits per weight are of the"
        " others"
    ]


def _unused_note(checkpoint: Checkpoint, unused: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """What mlx-lm leaves aside, but for a vision tower, which stands among the modules and harms nothing."""
    roles = Counter(role for n in unused if (role := role_by_name(n)) != "vision")
    if not roles:
        return []
    size = sum(checkpoint.tensors[n].nbytes for n in unused if role_by_name(n) != "vision")
    counts = ", ".join(f"{n:,} {role}" for role, n in roles.items())
    harm = "; with mtp tensors in its shards a build breaks mlx-lm up to 0.31.3" if "mtp" in roles else ""
    return [f"{counts} tensors ({show_bytes(size)}) that mlx-lm's {config['model_type']} leaves aside{harm}"]


def _dtype_notes(stored: Sequence[Stored], model: Any, config: Mapping[str, Any]) -> list[str]:
    """Floats stored in another dtype than the config names; loaders take them as they are."""
    stated = _config_dtype(config)
    casts = getattr(model, "cast_predicate", None) or (lambda _: True)
    odd: dict[str, list[str]] = defaultdict(list)
    for s in stored:
        for suffix, view in s.views.items():
            name = f"{s.module.path}.{suffix}" if suffix else s.module.path
            dtype = SAFETENSORS_DTYPES[view.dtype]
            if stated and dtype in FLOATS and dtype != stated and casts(name) and suffix != "global_scale":
                odd[dtype].append(name)
    return [
        f"{len(names):,} arrays are {dtype} where config.json says {stated} ({', '.join(names[:2])})"
        for dtype, names in odd.items()
    ]


def _config_dtype(config: Mapping[str, Any]) -> str | None:
    """What mlx_lm.convert casts floats to for this config, as safetensors names it."""
    text = config.get("text_config")
    named = config.get("torch_dtype") or (text.get("dtype") if isinstance(text, dict) else None)
    return TORCH_DTYPES.get(str(named))


def _depth(stored: Sequence[Stored]) -> int:
    return 1 + max((s.module.layer for s in stored if s.module.layer is not None), default=-1)
