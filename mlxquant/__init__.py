"""mlxquant: from a Hugging Face mixture-of-experts checkpoint to an audited MLX build.

A checkpoint flows one way: source -> plan -> build -> audit. Each arrow is a command, a function here and a record on
disk. These functions are the public API; everything else is the inside and may move. A study in five calls:

    import mlxquant

    source = mlxquant.open_source("Qwen/Qwen3.5-122B-A10B")
    plan = mlxquant.make_plan(source, "gates-8bit")
    build = mlxquant.convert(source, "gates-8bit", "build")
    record = mlxquant.compare(source, ["gates-8bit", "deepseek-8bit"], data="calls.jsonl")
    table = mlxquant.rows(record)

Nothing heavy is imported before a function is called: `import mlxquant` costs a few milliseconds. Every error that a
user can cause is an `errors.MlxquantError` with one message; nothing is printed.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from .builds.read.build import Build
    from .builds.write.convert import ConvertOptions
    from .calibrate.candidates import EncodedCandidates
    from .calibrate.compensating import Compensating
    from .layout.layout import Layout
    from .plan.plan import Plan
    from .plan.recipe.recipe import Recipe
    from .records.rows import Row
    from .source.checkpoint import Checkpoint

__version__ = "0.1.0"
__all__ = [
    "audit",
    "compare",
    "convert",
    "load_recipe",
    "make_plan",
    "open_source",
    "quant_predicate",
    "read_build",
    "rows",
    "verify",
]


def open_source(source: str | Path) -> Checkpoint:
    """Open a checkpoint: a folder in the Hub's layout, a config.json (to plan from), or a Hub id (org/name[@revision]).

    Only headers and JSON files are read, from the Hub likewise: 1 MB of a checkpoint of 245 GB. `Checkpoint.tensors`
    has each tensor's dtype, shape and place, `Checkpoint.config` the config.

    Raises SourceError for what cannot be read or contradicts its own index; UsageError for an empty name.

    >>> open_source("./qwen3-30b-a3b").name  # doctest: +SKIP
    'qwen3-30b-a3b'
    """
    from .source.hub.open import open_source

    return open_source(str(source))


def load_recipe(
    recipe: str | Path,
    *,
    bits: int | None = None,
    group_size: int | Sequence[int] | None = None,
    mode: str | None = None,
    method: str | None = None,
    sets: Sequence[str] = (),
    unaligned: str | None = None,
) -> Recipe:
    """Load a shipped recipe by name, a variation ("gates-8bit:bits=4"), or a .toml file, with changes.

    `bits` (2, 3, 4, 5, 6, 8 a weight), `group_size` (32, 64, 128 weights to a scale) and `mode` ("affine", "mxfp4",
    "mxfp8", "nvfp4") replace the recipe's default, where of several group sizes a module takes the first that divides
    its input; `method` is how values become integers ("rtn" rounds, "mse" searches; "imatrix", "gptq" and "distill"
    need documents, which `mlxquant convert --data` takes);
    `sets` are rules such as "role=attention:bits=6", which win over the recipe's; `unaligned` is "error" or "keep",
    for modules whose input width no group size divides.

    Raises RecipeError with every mistake, one a line.

    >>> load_recipe("gates-8bit", bits=4, group_size=64).default
    FormatChoice(bits=4, group_sizes=(64,), mode='affine', method='rtn')
    """
    from .plan.recipe.variation import load_variation

    return load_variation(
        str(recipe), sets=sets, bits=bits, group_size=group_size, mode=mode, method=method, unaligned=unaligned
    )


def make_plan(
    source: Checkpoint | str | Path,
    recipe: Recipe | str,
    *,
    dtype: str | None = None,
    keep: Collection[str] = (),
    provider: str | None = None,
) -> Plan:
    """Lay a recipe over a checkpoint: the format and bytes of every module, before a weight is read.

    `dtype` ("float16", "bfloat16", "float32") is for what is not quantized, by default the source's; `keep` names what
    is carried along beside the language model ("vision", "mtp"). `provider` is whose model class to use, by default
    mlx-lm's, or mlx-vlm's where mlx-lm has none. `Plan.totals` has parameters, bytes and bpw (bits per
    weight, scales and biases included); `Plan.as_dict()` is the record that `mlxquant plan --json` prints, and
    `rows(plan.as_dict())` has a row a module with its shape (out, in) or (experts, out, in).

    Raises SourceError and LayoutError for a source that mlx-lm's class does not fit, PlanError where rules and model
    do not fit, with every module.

    >>> make_plan("./qwen3-30b-a3b", "gates-8bit").totals["bpw"]  # doctest: +SKIP
    8.2588
    """
    from .layout.layout import read_layout
    from .plan.plan import make_plan

    opened = _opened(source)
    return make_plan(read_layout(opened, dtype=dtype, keep=keep, provider=provider), _loaded(recipe), opened)


def convert(
    source: Checkpoint | str | Path,
    recipe: Recipe | str,
    out: str | Path,
    *,
    dtype: str | None = None,
    keep: Collection[str] = (),
    provider: str | None = None,
    data: str | Path | None = None,
    jobs: int | None = None,
    max_memory: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Build:
    """Write the build that a recipe makes of a checkpoint, and read it back; `out` appears only when complete.

    Memory stays bounded whatever the model: `jobs` workers (by default one for each core) of one block each, at most
    `max_memory` bytes. `progress` is called with bytes done and bytes in all. What is finished is kept in OUT.partial:
    the same call goes on from there after a crash. `dtype`, `keep` and `provider` are as of `make_plan`. `data` are the
    documents of the methods "imatrix", "gptq" and "distill", a JSONL file or "builtin", which is their default.

    Raises what `make_plan` raises; OutputError where `out` exists, lacks room or is being written; NonFiniteError for
    NaN or infinity in a weight.

    >>> convert("./qwen3-30b-a3b", "gates-8bit", "build").formats["lm_head"]  # doctest: +SKIP
    Format(bits=8, group_size=128, mode='affine')
    """
    from os import cpu_count
    from pathlib import Path

    from .builds.methods import needs_columns, needs_documents
    from .builds.read.build import read_build
    from .builds.write.convert import ConvertOptions, convert
    from .layout.layout import read_layout
    from .plan.plan import make_plan
    from .words.progress import unwatched

    opened = _opened(source, weights=True)
    layout = read_layout(opened, dtype=dtype, keep=keep, provider=provider)
    options = ConvertOptions(dtype=dtype, max_memory=max_memory, threads=jobs or cpu_count() or 1)
    watch = unwatched if progress is None else (lambda event: progress(event.done, event.total))
    plan = make_plan(layout, _loaded(recipe), opened)
    encoder = None
    if data is not None or needs_documents(plan) or needs_columns(plan):
        encoder = _on_documents(opened, layout, plan, "builtin" if data is None else data, options)
    convert(opened, layout, plan, Path(out), options, watch, encoder=encoder)
    return read_build(out)


def read_build(build: str | Path) -> Build:
    """Read an MLX build of any tool: what each module really is, from its bytes, and where its config says otherwise.

    `Build.formats` has the format of each module by path (None: not quantized), `Build.disagreements` what does not
    fit together, each with the module or file.

    Raises BuildError for what is no MLX build, SourceError for files that cannot be read.

    >>> read_build("build").disagreements  # doctest: +SKIP
    ()
    """
    from .builds.read.build import read_build

    return read_build(str(build))


def audit(build: Build | str | Path, *, source: Checkpoint | str | Path | None = None) -> dict[str, Any]:
    """Give the audit record of a build: format, bytes, reason and error of every module.

    Errors are relative, |dequantized - source| / |source| as root mean squares over a module. They come from the
    build's own audit.json, or with `source` from measuring against the checkpoint, which reads all of both.

    Raises BuildError and SourceError as `read_build` does, and where `source` is another model's.

    >>> audit("build")["totals"]["bpw"]  # doctest: +SKIP
    8.2588
    """
    from .builds.read.build import Build
    from .check.against_source import compare_with_source
    from .check.audit import audit_build

    read = build if isinstance(build, Build) else read_build(build)
    return audit_build(read, None if source is None else compare_with_source(read, _opened(source, weights=True)))


def verify(
    build: str | Path, *, source: Checkpoint | str | Path | None = None, everything: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Read a build through and hold every byte against its manifest; give the record.

    With `source`, a sample of it (2 % of the bytes, drawn by `seed`; all with `everything`) is made again and compared
    byte for byte. `record["whole"]` says whether nothing differs, `record["differences"]` what does.

    Raises BuildError where there is no build to read at all.

    >>> verify("build")["whole"]  # doctest: +SKIP
    True
    """
    from pathlib import Path

    from .check.remake import verify_source
    from .check.verify import verify

    verified = verify(Path(build))
    if source is not None:
        opened = _opened(source, weights=True)
        verified = verify_source(verified, Path(build), opened, everything=everything, seed=seed)
    return verified.as_dict()


def compare(
    source: Checkpoint | str | Path,
    candidates: Sequence[Recipe | str | Path],
    *,
    data: str | Path = "builtin",
    calibration_data: str | Path | None = None,
    max_tokens: int | None = None,
    margin: float | None = None,
    confidence: float = 0.95,
    work: str | Path | None = None,
) -> dict[str, Any]:
    """Judge recipes and builds against the full-precision model in one pass over its weights; give the record.

    `candidates` are recipes (as of `load_recipe`, or loaded) and folders of builds, given as a `Path`. `data` is a
    JSONL file of texts or conversations, or "builtin". `calibration_data` are other documents, on which recipes of the
    methods "imatrix" and "gptq" are encoded within the pass ("builtin" by default). One layer is in memory at a time,
    and no build is written. KL is in nats a token, with an interval by document at `confidence`; `margin` is the
    difference in KL that would matter, set beforehand (0.001 by default). With `work`, a folder, what is done is kept
    there and the same call goes on.

    Raises UsageError for candidates that cannot be told apart, DataError for the data, and for source, recipes and
    builds what `make_plan` and `read_build` raise.

    >>> record = compare("./qwen3-30b-a3b", ["gates-8bit", "gates-8bit:bits=4"])  # doctest: +SKIP
    >>> [row["estimate"] for row in rows(record) if row["metric"] == "kl_nats"][:1]  # doctest: +SKIP
    [0.00031]
    """
    from pathlib import Path

    from .divergence.record import Question, run_comparison
    from .divergence.statistics import DEFAULT_MARGIN
    from .stream.options import CompareOptions

    question = Question(
        data=data if data == "builtin" else Path(data),
        margin=DEFAULT_MARGIN if margin is None else margin,
        confidence=confidence,
        max_tokens=max_tokens,
    )
    options = CompareOptions(work=None if work is None else Path(work))
    opened, judged = _opened(source, weights=True), [_candidate(each) for each in candidates]
    encoding = _encoding([c.recipe for c in judged if c.recipe is not None], opened, calibration_data)
    record, _ = run_comparison(opened, judged, question, options, encoding=encoding)
    return record


def quant_predicate(
    source: Checkpoint | str | Path, recipe: Recipe | str, *, q_group_size: int = 64
) -> Callable[[str, Any], bool | dict[str, Any]]:
    """Give a recipe as mlx-lm's own convert takes it: ``mlx_lm.convert(path, quantize=True, quant_predicate=...)``.

    mlx-lm leaves out, without a word, every module whose input width `q_group_size` does not divide; give the same
    `q_group_size` here and there (both have 64 by default).

    Raises what `make_plan` raises, and PlanError for a recipe of which mlx-lm would make something else than
    mlxquant does: a module that it would leave out or could not quantize.

    >>> predicate = quant_predicate("./qwen3-30b-a3b", "gates-8bit")  # doctest: +SKIP
    >>> mlx_lm.convert("./qwen3-30b-a3b", "build", quantize=True, quant_predicate=predicate)  # doctest: +SKIP
    """
    from .layout.layout import read_layout
    from .plan.predicate import quant_predicate

    layout = read_layout(_opened(source))
    return quant_predicate(_loaded(recipe), layout.modules, n_layers=layout.n_layers, q_group_size=q_group_size)


def rows(record: Mapping[str, Any] | str | Path, table: str | None = None) -> list[Row]:
    """Give a record, or the file of one, as flat tables of one set of columns: ``pandas.DataFrame(rows(record))``.

    Modules of a plan or audit, changes of a diff, measurements of compare, eval, results and tau2 (with `candidate` and
    `baseline`), results of bench, candidates of sweep, checks of validate; `table` names another list of the record.

    Raises RecordError for what is no record, UsageError for a list that it does not have.

    >>> rows({"schema": "mlxquant.diff/1", "changes": [{"path": "lm_head", "a": {"bits": 8}, "b": None}]})
    [{'path': 'lm_head', 'a.bits': 8, 'b': None}]
    """
    from .records.rows import rows

    return rows(record, table)


def _opened(source: Checkpoint | str | Path, *, weights: bool = False) -> Checkpoint:
    """A checkpoint as it is, or opened; `weights` says that they will be read, which one on the Hub is opened for."""
    from .source.checkpoint import Checkpoint
    from .source.hub.open import open_source, with_weights

    if not isinstance(source, Checkpoint):
        return open_source(str(source), weights=weights)
    return with_weights(source) if weights else source


def _on_documents(
    source: Checkpoint, layout: Layout, plan: Plan, data: str | Path, options: ConvertOptions
) -> Compensating:
    """The encoder of a plan on documents; reads the source by itself. Raises UsageError where no module needs it."""
    from pathlib import Path

    from .builds.methods import needs_columns, needs_documents
    from .calibrate.compensating import Compensating, Documents
    from .divergence.texts.documents import read_documents
    from .divergence.texts.tokens import open_tokenizer
    from .errors import UsageError

    if not needs_documents(plan) and not needs_columns(plan):
        raise UsageError(
            f"data: recipe {plan.recipe} needs no documents; leave it out, or choose imatrix, gptq or distill"
        )
    own = _opened(source.folder if source.folder is not None else source, weights=True)
    documents = read_documents(data, open_tokenizer(own))
    return Compensating(
        own, layout, plan, Documents(documents.documents, documents.described(Path(data).name)),
        threads=options.threads, dtype=options.dtype, max_memory=options.max_memory,
    )  # fmt: skip


def _encoding(recipes: Sequence[Recipe], source: Checkpoint, data: str | Path | None) -> EncodedCandidates | None:
    """What encodes recipes of a comparison on documents; None where none needs it. Raises UsageError."""
    from os import cpu_count
    from pathlib import Path

    from .calibrate.candidates import EncodedCandidates, needs_data
    from .calibrate.compensating import Documents
    from .divergence.texts.documents import read_documents
    from .divergence.texts.tokens import open_tokenizer
    from .errors import UsageError

    if not any(needs_data(recipe, has_columns=False) for recipe in recipes):
        if data is not None:
            raise UsageError("calibration_data: no recipe here needs it; leave it out, or choose imatrix or gptq")
        return None
    read = read_documents("builtin" if data is None else data, open_tokenizer(source))
    described = read.described(Path("builtin" if data is None else data).name)
    return EncodedCandidates(
        Documents(read.documents, described, "calibration_data"),
        threads=cpu_count() or 1,
        reopen=lambda: _opened(source.folder if source.folder is not None else source, weights=True),
    )


def _loaded(recipe: Recipe | str) -> Recipe:
    """A recipe as it is, or loaded."""
    from .plan.recipe.recipe import Recipe

    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _candidate(what: Recipe | str | Path) -> Any:
    """What `compare` judges: a recipe under the name that it was given, or a build."""
    from pathlib import Path

    from .plan.recipe.recipe import Recipe
    from .plan.recipe.variation import name_of
    from .stream.candidates import Candidate

    if isinstance(what, Path):
        return Candidate(what.resolve().name, build=what)
    if isinstance(what, Recipe):
        return Candidate(str(what), recipe=what)
    recipe = load_recipe(what)
    return Candidate(name_of(what, recipe), recipe=recipe)
