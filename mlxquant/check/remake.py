"""Whether a build is what its source and recipe make: pieces of it are made again and compared byte by byte.

The plan is made anew, from the recipe in the manifest or, for another tool's build, from the formats that it has;
names, shapes and dtypes must come out the same, and in mlxquant's own builds the config and the copied files. Then
threads make pieces as `convert` does, and what they would write is compared with what is there. What cannot be made
again here is measured instead (see `as_stored`). A sample takes one
piece of every role and format first, then pieces at random until `SHARE` of the bytes are covered; a seed makes it
repeatable. Nothing is written.
"""

from __future__ import annotations

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from numpy.typing import NDArray

from ..builds.manifest import MANIFEST
from ..builds.methods import encoder_of, methods_of
from ..builds.read.build import Build, read_build
from ..builds.side_files import config_text, read_sides
from ..builds.write.making import Maker, Target
from ..builds.write.pieces import SIZES, Output, Piece, Sizes, outputs, pieces
from ..builds.write.workers import ordered_map
from ..disk.files import read_regular
from ..errors import BuildError, SourceError
from ..kernels import ColumnWeights, Encoder, Rounding
from ..layout.carried import MTP_FILE
from ..layout.layout import Layout, read_layout
from ..plan.plan import OutputArray, Plan, make_plan
from ..plan.recipe.infer import recipe_of
from ..plan.recipe.recipe import Recipe, parse_recipe
from ..records.head import describe_versions
from ..source.checkpoint import Checkpoint, read_file_header
from ..source.headers import Read, Tensor
from ..words.formats import FLOATS, TORCH_DTYPES
from ..words.progress import Progress, Watch, unwatched
from .as_stored import AsStored
from .verify import RemadeSample, Verified

# Of a build's bytes this much is made again, but no less than a few seconds' worth.
SHARE, AT_LEAST = 0.02, 256 << 20


def verify_source(
    verified: Verified,
    folder: Path,
    source: Checkpoint,
    *,
    everything: bool = False,
    seed: int = 0,
    threads: int | None = None,
    watch: Watch = unwatched,
    encoder: Encoder | None = None,
    calibration: Callable[[Layout], ColumnWeights | None] | None = None,
    sizes: Sizes = SIZES,
    at_least: int = AT_LEAST,
) -> Verified:
    """Make pieces again from the source, and add what they give to the result of `verify`.

    `encoder` is what the plan's methods ask for unless one is given; `calibration` gives the column weights of a
    layout, for methods that need them. A sample has at least `at_least` bytes; progress is in output bytes.
    Raises SourceError or BuildError where either cannot be read at all, UsageError without weights that are needed.
    """
    if not source.tensors:
        raise SourceError(f"{source.name}: a config alone has no weights to hold the build against")
    build = read_build(folder)
    notes = list[str](source.notes)
    layout, plan = _plan_again(build, source, notes)
    tensors = _tensors(build)
    differences = [*_names(tensors, plan)]
    if build.manifest is not None:
        differences += _files(build, source, layout, plan)
    todo = [p for output in outputs(plan, layout.views) for p in pieces(output, sizes)]
    comparable = [p for p in todo if all(_fits(part, tensors) for part in p.output.parts)]
    chosen = comparable if everything else choose(comparable, plan, seed, at_least)
    target = _Comparing({}, tensors, build.checkpoint.read_into)
    rounding = Rounding(allow_nonfinite=True, device=_device(build, notes))
    columns = calibration(layout) if calibration is not None else None
    stored = AsStored(tensors, build.checkpoint.read_into)
    encoder = encoder or encoder_of(plan, rounding, columns, allow_nonfinite=True, compensated=stored)
    maker = Maker(source.read_into, target, encoder, errors=False, allow_nonfinite=True)
    stop = source.reader.stop if source.reader is not None else lambda: None
    done, total = 0, sum(p.nbytes for p in chosen)
    for piece, _ in ordered_map(maker.make, chosen, threads or os.cpu_count() or 1, stop=stop):
        done += piece.nbytes
        watch(Progress(done, total, piece.output.module))
    source.close()
    build.checkpoint.close()
    sample = RemadeSample(source.name, len(chosen), len(todo), done, sum(p.nbytes for p in todo), seed)
    differences += [
        f"{name} ({tensors[name].file}): not what the source gives, from row {row:,} on"
        for name, row in sorted(target.first_rows.items())
    ]
    differences += stored.differences()
    if (measured := stored.note(methods_of(plan.modules).values())) is not None:
        notes.append(measured)
    if differences:
        notes += _versions(build)
    differences, notes = [*verified.differences, *differences], [*verified.notes, *notes]
    return replace(verified, differences=_once(differences), notes=_once(notes), sample=sample)


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    """Each text where it stands first."""
    return tuple(dict.fromkeys(texts))


def choose(todo: Sequence[Piece], plan: Plan, seed: int, at_least: int = AT_LEAST) -> list[Piece]:
    """Choose pieces at random: one of each role and format, then more until `SHARE` of the bytes are covered.

    No fewer than `at_least` bytes, if there are as many.
    """
    kinds = {a.source: (m.module.role, str(m.format), a.part) for m in plan.modules for a in m.arrays()}
    shuffled = random.Random(seed).sample(todo, len(todo))
    first: dict[Any, Piece] = {}
    for piece in shuffled:
        first.setdefault(kinds.get(piece.output.name), piece)
    chosen = list(first.values())
    keys, covered = {p.key for p in chosen}, sum(p.nbytes for p in chosen)
    enough = max(at_least, SHARE * sum(p.nbytes for p in todo))
    for piece in shuffled:
        if covered >= enough:
            break
        if piece.key not in keys:
            chosen.append(piece)
            covered += piece.nbytes
    return chosen


@dataclass(frozen=True)
class _Comparing(Target):
    """Compares what would be written with what is there; `first_rows` has the first row that differs, by array."""

    tensors: Mapping[str, Tensor]
    read: Read
    first_rows: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, output: Output, part: OutputArray, row: int, data: NDArray[Any]) -> None:
        """Compare rows of one array, from `row` on."""
        expected = memoryview(data.data).cast("B")
        tensor = self.tensors[part.name]
        width = output.row_bytes(part)
        stored = memoryview(bytearray(len(expected)))
        self.read(tensor.file, tensor.start + row * width, stored)
        if stored == expected:
            return
        at = next(i for i in range(0, len(expected), width) if stored[i : i + width] != expected[i : i + width])
        with self.lock:
            self.first_rows[part.name] = min(self.first_rows.get(part.name, 1 << 62), row + at // width)


def _plan_again(build: Build, source: Checkpoint, notes: list[str]) -> tuple[Layout, Plan]:
    """Lay the source out and plan it as the build was."""
    if build.manifest is not None:
        options = build.manifest["options"]
        recipe = Recipe.from_dict(build.manifest["recipe"])
        keep, library = options.get("keep") or (), build.provider.name
        layout = read_layout(source, dtype=options.get("dtype"), keep=keep, provider=library)
        return layout, make_plan(layout, recipe, source)
    recipe = parse_recipe(recipe_of(build.modules, build.formats, n_layers=build.n_layers))
    notes.append("the recipe was inferred from the build's formats, and files beside the weights were not compared")
    layout = _layout_in_dtype_of(build, source)
    return layout, make_plan(layout, recipe, source)


def _layout_in_dtype_of(build: Build, source: Checkpoint) -> Layout:
    """Lay the source out in the dtype that most of the build's floats have."""
    floats = Counter[str]()
    for tensor in build.checkpoint.tensors.values():
        if tensor.dtype in FLOATS:
            floats[tensor.dtype] += tensor.nbytes
    layout = read_layout(source, provider=build.provider.name)
    most = max(floats, key=lambda name: floats[name], default=layout.dtype)
    if most == layout.dtype:
        return layout
    word = next(word for word, name in TORCH_DTYPES.items() if name == most)
    return read_layout(source, dtype=word, provider=build.provider.name)


def _tensors(build: Build) -> dict[str, Tensor]:
    """The build's tensors, those of a next-token head beside the shards included."""
    if not (build.folder / MTP_FILE).is_file():
        return dict(build.checkpoint.tensors)
    return {**build.checkpoint.tensors, **{t.name: t for t in read_file_header(build.folder / MTP_FILE)[0]}}


def _device(build: Build, notes: list[str]) -> str:
    """Where the build was computed, if this machine has that."""
    if build.manifest is None or build.manifest["options"].get("device") != "gpu":
        return "cpu"
    if mx.metal.is_available():
        return "gpu"
    notes.append("it was made on a GPU and is made again on the CPU here, which may round otherwise")
    return "cpu"


def _names(tensors: Mapping[str, Tensor], plan: Plan) -> Iterator[str]:
    """Where the build has other tensors than the plan gives."""
    expected = {a.name: a for a in (*plan.arrays(), *plan.carried_arrays())}
    for name, array in expected.items():
        if name not in tensors:
            yield f"{name}: missing; the source gives {array.dtype} {list(array.shape)}"
        elif not _fits(array, tensors):
            tensor = tensors[name]
            yield (
                f"{name} ({tensor.file}): {array.dtype} {list(array.shape)} expected from the source,"
                f" {tensor.dtype} {list(tensor.shape)} found"
            )
    for name in tensors.keys() - expected.keys():
        yield f"{name} ({tensors[name].file}): the source gives no such tensor"


def _fits(array: OutputArray, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the build has this array, of its dtype and shape."""
    tensor = tensors.get(array.name)
    return tensor is not None and (tensor.dtype, tensor.shape) == (array.dtype, array.shape)


def _files(build: Build, source: Checkpoint, layout: Layout, plan: Plan) -> Iterator[str]:
    """Where config.json or a copied file is not what the source gives."""
    assert build.manifest is not None
    trust = bool(build.manifest["options"].get("trust_remote_code"))
    expected = read_sides(source, plan, trust_remote_code=trust)
    for name, data in expected.items():
        try:
            same = read_regular(build.folder / name) == data
        except FileNotFoundError:
            yield f"{name}: missing; the source has it"
            continue
        except OSError:  # a pipe, or far longer than the source's
            same = False
        if not same:
            yield f"{name}: not the source's"
    try:
        config = json.loads(read_regular(build.folder / "config.json"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{build.folder / 'config.json'}: cannot be read ({error})") from None
    from_source = json.loads(config_text(layout.config, plan))
    for key in sorted(from_source.keys() | config.keys()):
        if from_source.get(key) != config.get(key):
            yield f"config.json: {key} is not what source and recipe give"


def _versions(build: Build) -> list[str]:
    """The versions that differ from those which the build was made with, and may explain a difference."""
    if build.manifest is None:
        return []
    then, now = build.manifest["versions"], describe_versions()
    changed = [f"{n} {then.get(n)} then, {now[n]} now" for n in ("mlxquant", "mlx", "mlx-lm") if then.get(n) != now[n]]
    if not changed:
        return []
    return [f"{MANIFEST} names other versions, which alone may make a difference: {', '.join(changed)}"]
