"""Reading recipes: TOML, what it extends, and the command line's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxquant.errors import RecipeError
from mlxquant.plan.recipe.recipe import Recipe, available, load_recipe, parse_recipe
from mlxquant.words.formats import FormatChoice

HEAD = '[quantize]\nbits = 8\ngroup_size = 64\n[[rules]]\nreason = "because"\n'


def mistakes(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    return str(caught.value)


def write(folder: Path, name: str, text: str) -> str:
    file = folder / f"{name}.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name = 'x'", "no default; give [quantize] with bits, or quantize = false"),
        ("quantize = false\nnmae = 'x'", "unknown key 'nmae' (did you mean 'name'?); valid: name, summary"),
        ("[quantize]\nbit = 8", "quantize: unknown key 'bit' (did you mean 'bits'?)"),
        ("[quantize]\ngroup_size = 64", "quantize: bits is missing"),
        ("[quantize]\nbits = 7", "mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"),
        ("[quantize]\nbits = 4\ngroup_size = 16", "mode affine has group size 32, 64 or 128, not 16"),
        ("[quantize]\nbits = 8\nmode = 'mxfp4'", "mode mxfp4 has 4 bits, not 8"),
        ("[quantize]\nbits = 8\nmode = 'affin'", "unknown mode 'affin' (did you mean 'affine'?)"),
        ("[quantize]\nbits = '8'", "bits is a whole number, not '8'"),
        ("[quantize]\nbits = 8\nunaligned = 'leave'", "unaligned is error or keep, not 'leave'"),
        ("quantize = true", "a table with bits, or false, not True"),
        ("quantize = false\nrules = 3", "rules is a list of tables; write [[rules]]"),
        ("quantize = false\nsummary = 3", "summary is a text, not 3"),
        ("quantize = false\nextends = ['none']", "extends is one recipe's name or path"),
        (HEAD, "rule 1: it asks for nothing; give keep = true, bits, group_size, mode, method or use"),
        (HEAD + "keep = false", "rule 1: keep = false means nothing; use=default"),
        (HEAD + "keep = true\nbits = 4", "rule 1: keep and bits exclude each other"),
        (HEAD + "use = 'model'\nbits = 4", "rule 1: bits and use exclude each other"),
        (HEAD + "use = 'modle'", "use is model or default or source, not 'modle' (did you mean 'model'?)"),
        (HEAD + "keep = 'yes'", "keep is true or false, not 'yes'"),
        (HEAD + "keep = true\nmatches = {}", "unknown key 'matches' (did you mean 'match'?); valid: match, keep"),
        (HEAD + "keep = true\nmatch = {kind = 'x'}", "match: unknown key 'kind'; valid: role, layer_type, layers"),
        (HEAD + "keep = true\nmatch = {role = 'routr'}", "unknown role 'routr' (did you mean 'router'?); valid: emb"),
        (HEAD + "keep = true\nmatch = {layer_type = 'softmax'}", "unknown layer_type 'softmax'; valid: full_attention"),
        (HEAD + "keep = true\nmatch = {layers = '0.25'}", "'0.25' is not a layer; write 3, -1"),
        (HEAD + "keep = true\nmatch = {path = '*.{q,k}_proj'}", "is a glob (* ? [abc]); for alternatives give a list"),
        (HEAD + "keep = true\nmatch = {path = []}", "path is a text or a list of texts"),
        (HEAD + "keep = true\nmatch = 'router'", "match is a table"),
        (HEAD + "bits = 7", "#1 (every module): mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"),
        (HEAD + "bits = 4\nmode = 'mxfp8'", "mode mxfp8 has 8 bits, not 4"),
        ("[quantize]\nbits = 8\n[[rules]]\nkeep = true", "rule 1: every rule needs a reason"),
        ("[quantize]\nbits = 8\n[[rules]]\nkeep = true\nreason = ' '", "rule 1: every rule needs a reason"),
        ("quantize = false\n[[rules]]\nuse = 'model'\nreason = 'r'", "use = 'model' needs a default"),
        (HEAD + "keep = true\n[[rules]]\nbits = 4\nreason = 'r'", "rule 2: never applies: rule 1 before it matches"),
        ("quantize = false\nextends = 'uniform'", "extends 'uniform': unknown"),
        ("quantize = ", "not readable as TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_what_would_be_right(text: str, expected: str) -> None:
    assert expected in mistakes(text)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    base = write(tmp_path, "base", "[quantize]\nbits = 8\nsise = 64\n[[rules]]\nkeep = true\n")
    mine = write(
        tmp_path, "mine", f"extends = '{base}'\ncolour = 'red'\n[[rules]]\nmatch = {{role = 'gate'}}\nbits = 9\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(mine, mode="mxfp5", sets=["role=attention", "role=atention:keep"])
    message = str(caught.value)
    for part in ("sise", "base.toml, rule 1", "colour", "role 'gate'", "mxfp5", 'no ":" found', "'atention'"):
        assert part in message, part


def test_where_a_mistake_may_hide_others_the_message_ends_with_that() -> None:
    assert mistakes(HEAD + "bits = 'x'").endswith("\n(fix these first; there may be more)")
    assert not mistakes(HEAD + "bits = 7").endswith("mended)")
    with pytest.raises(RecipeError) as caught:
        load_recipe("gates-8bit", bits=7, group_size=33)
    assert "8 bits, not 7, and group size 32, 64 or 128, not 33" in str(caught.value)


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"'gates-8bits': unknown \(did you mean 'gates-8bit'\?\); valid: deepseek-4bit"
    ):
        load_recipe("gates-8bits")


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match=r"no such file: here/mine.toml"):
        load_recipe("here/mine.toml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a folder; a \.toml file expected"):
        load_recipe(f"{tmp_path}/")


def test_a_name_that_is_a_file_here_without_its_ending_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "r4", "[quantize]\nbits = 4\n")
    with pytest.raises(RecipeError, match=r"recipe 'r4': unknown \(did you mean \./r4\.toml\?\)"):
        load_recipe("r4")


def test_no_name_and_a_name_too_long_are_told_in_a_line() -> None:
    with pytest.raises(
        RecipeError, match=r"^recipe '': a shipped recipe's name or the path of a \.toml file expected$"
    ):
        load_recipe("")
    with pytest.raises(RecipeError, match=r"^recipe 'x{79}…': cannot be read \(File name too long\)$"):
        load_recipe("x" * 300)


# --- extends ---


def test_own_rules_come_before_those_of_the_extended_recipe() -> None:
    recipe = load_recipe("deepseek-8bit")
    assert [rule.label for rule in recipe.rules] == ["deepseek-8bit#1", "deepseek-8bit#2", "gates-8bit#1"]
    assert recipe.default == FormatChoice(8, (128, 64, 32))


def test_a_users_file_extends_shipped_names_and_files_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "house", 'extends = "gates-8bit"\n[quantize]\ngroup_size = 64\n')
    mine = write(tmp_path, "mine", 'extends = "./house.toml"\n[[rules]]\nmatch={role="mlp"}\nbits=6\nreason="r"\n')
    also = write(tmp_path, "also", 'extends = "house"\n')
    assert load_recipe(mine).default == FormatChoice(8, (64,))
    assert [rule.label for rule in load_recipe(mine).rules] == ["mine#1", "gates-8bit#1"]
    assert load_recipe(also).default == FormatChoice(8, (64,))


@pytest.mark.parametrize("reference", ["../other/x.toml", "/etc/passwd", "~/x.toml", "sub/../../x.toml", "/dev/zero"])
def test_a_recipe_opens_no_file_outside_its_folder(tmp_path: Path, reference: str) -> None:
    (tmp_path / "mine").mkdir()
    mine = write(tmp_path / "mine", "mine", f"extends = '{reference}'\n")
    with pytest.raises(RecipeError, match=r"below it|no such file"):
        load_recipe(mine)


def test_a_recipe_as_text_extends_shipped_ones_alone() -> None:
    with pytest.raises(RecipeError, match="the name of a shipped recipe expected"):
        parse_recipe("extends = '/etc/passwd'\n")


@pytest.mark.parametrize("reference", ["x" * 300, "a\0b", "~nobody-here/x.toml"])
def test_a_name_that_no_file_can_have_is_an_error_like_any_other(reference: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe|TOML"):
        load_recipe(reference)


@pytest.mark.parametrize("text", ["x = " + "9" * 5000, "x = " + "[" * 5000, "x = " + "{a=" * 2000])
def test_numbers_too_long_and_tables_too_deep_are_unreadable(text: str) -> None:
    with pytest.raises(RecipeError, match="not readable as TOML"):
        parse_recipe(text)


def test_extends_in_a_circle_is_an_error_that_shows_it(tmp_path: Path) -> None:
    write(tmp_path, "b", 'extends = "./a.toml"\n')
    with pytest.raises(RecipeError, match="circle: a → b → a"):
        load_recipe(write(tmp_path, "a", 'extends = "./b.toml"\n'))


def test_a_recipe_may_not_bear_the_name_of_the_one_it_extends(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="name 'gates-8bit' is also that of a recipe which extends it"):
        load_recipe(write(tmp_path, "gates-8bit", 'extends = "gates-8bit"\n'))


def test_a_change_of_mode_takes_the_modes_own_bits_and_group(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "x", 'extends = "gates-8bit"\n[quantize]\nmode = "mxfp8"\n'))
    assert recipe.default == FormatChoice(8, (32,), "mxfp8")


def test_layer_types_are_normalised() -> None:
    recipe = parse_recipe(HEAD + "keep = true\nmatch = {layer_type = ['attention', 'full_attention', 'mamba']}")
    assert recipe.rules[0].match.layer_type == ("full_attention", "linear_attention")


# --- the command line's words ---


def test_bits_and_group_size_change_the_default_and_what_rules_leave_open() -> None:
    recipe = load_recipe("mixed-4-6", bits=5, group_size=32)
    assert recipe.default == FormatChoice(5, (32,))
    assert recipe.rules[1].format(recipe.default) == FormatChoice(6, (32,))


def test_a_rule_that_gives_its_own_bits_stands_and_a_note_says_so() -> None:
    (note,) = load_recipe("mixed-4-6", bits=5).notes
    assert note == "--bits changes the default; mixed-4-6#2, mixed-4-6#3, mixed-4-6#4 give their own bits"


def test_overrides_that_mlx_lacks_name_every_rule_they_break() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("mixed-4-6", mode="mxfp4")
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "mixed-4-6#2",
        "mixed-4-6#3",
        "mixed-4-6#4",
    ]


def test_nothing_can_change_the_default_of_a_recipe_that_has_none() -> None:
    with pytest.raises(RecipeError, match="--bits 4: none has no default format to change"):
        load_recipe("none", bits=4)


def test_set_puts_a_rule_first_and_says_where_it_came_from() -> None:
    recipe = load_recipe("gates-8bit", sets=["role=attention:bits=6", "path=*.v_proj,layers=0..1/8,7/8..:keep"])
    first, second, *_ = recipe.rules
    assert (first.match.role, first.bits, first.label) == (("attention",), 6, "--set#1")
    assert first.reason == "asked for on the command line: --set role=attention:bits=6"
    assert second.match.as_dict() == {"layers": ["0..1/8", "7/8.."], "path": "*.v_proj"}
    assert second.keep


@pytest.mark.parametrize(
    ("text", "match", "action"),
    [
        (":bits=4", {}, {"bits": 4}),
        ("role=router,shared_expert_gate:keep", {"role": ["router", "shared_expert_gate"]}, {"keep": True}),
        ("role=router:keep=true", {"role": "router"}, {"keep": True}),
        ("layers=0,-1:bits=6,group_size=32", {"layers": [0, -1]}, {"bits": 6, "group_size": 32}),
        ("layer-type=attention:group-size=32", {"layer_type": "full_attention"}, {"group_size": 32}),
        ("layers=1/8+2.. step 3:mode=mxfp4", {"layers": "1/8+2.. step 3"}, {"mode": "mxfp4"}),
        ("role = expert : use = model", {"role": "expert"}, {"use": "model"}),
    ],
)
def test_set_reads(text: str, match: dict[str, object], action: dict[str, object]) -> None:
    rule = load_recipe("uniform-8bit", sets=[text]).rules[0]
    assert (rule.match.as_dict(), rule.action()) == (match, action)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bits=6", 'no ":" found; write MATCH:ACTION, as in "role=attention:bits=6"'),
        ("role=attention:", "it asks for nothing"),
        ("role=attention:keep=false", "keep = false means nothing; use=default gives the default"),
        ("role=attention:bits=7,group_size=33", "6 or 8 bits, not 7, and group size 32, 64 or 128, not 33"),
        ("attention:bits=6", "'attention' has no key; write key=value"),
        ("role=attention:bit=6", "unknown key 'bit' (did you mean 'bits'?)"),
        ("role=attention:bits=six", "bits is a whole number, not 'six'"),
        ("role=attention:bits=4,5", "bits is a whole number, not [4, 5]"),
        ("role=attention:bits=7", "mode affine has 2, 3, 4, 5, 6 or 8 bits, not 7"),
        ("role=attention:bits=6,bits=4", "bits is given twice"),
        ("role=attention,role=expert:keep", "role is given twice"),
        ("role=attention:mode=mxfp4,bits=8", "mode mxfp4 has 4 bits, not 8"),
        ("role=attention:keep,reason=x", "reason cannot stand after the colon"),
        ("layers=x:keep", "'x' is not a layer"),
    ],
)
def test_set_says_what_is_wrong(text: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("uniform-8bit", sets=[text])
    assert expected in str(caught.value)


# --- identity ---


@pytest.mark.parametrize("name", [shipped.name for shipped in available()])
def test_a_recipe_survives_its_record(name: str) -> None:
    recipe = load_recipe(name, sets=["layers=0..1/8:keep"])
    assert Recipe.from_dict(recipe.as_dict()) == recipe


def test_a_record_that_was_edited_is_refused() -> None:
    record = load_recipe("gates-8bit").as_dict()
    record["quantize"]["bits"] = 4
    with pytest.raises(RecipeError, match=r"sha256 .* expected, .* found"):
        Recipe.from_dict(record)


@pytest.mark.parametrize("key", ["rules", "quantize", "sha256"])
def test_a_record_that_lacks_something_is_refused(key: str) -> None:
    record = load_recipe("gates-8bit").as_dict()
    del record[key]
    with pytest.raises(RecipeError, match="its record is damaged"):
        Recipe.from_dict(record)


def test_the_hash_follows_what_is_applied_and_not_how_it_is_worded() -> None:
    plain = parse_recipe(HEAD + "keep = true\nmatch = {role = ['router', 'mlp']}")
    worded = parse_recipe(HEAD.replace("because", "for") + "keep = true\nmatch = {role = ['mlp', 'router']}")
    other = parse_recipe(HEAD + "keep = true\nmatch = {role = 'router'}")
    assert plain.sha256 == worded.sha256 != other.sha256
    assert load_recipe("gates-8bit", bits=6).sha256 != load_recipe("gates-8bit").sha256
    assert load_recipe("gates-8bit", sets=["role=mlp:keep"]).sha256 != load_recipe("gates-8bit").sha256
    assert load_recipe("gates-8bit", bits=8).sha256 == load_recipe("gates-8bit").sha256


def test_shipped_recipes_have_distinct_hashes_and_say_what_they_do() -> None:
    recipes = [load_recipe(shipped.name) for shipped in available()]
    assert len({recipe.sha256 for recipe in recipes}) == len(recipes)
    for shipped, recipe in zip(available(), recipes, strict=True):
        assert recipe.name == shipped.name == Path(shipped.path).stem
        assert recipe.summary
        assert recipe.reference
        assert all(len(rule.reason) > 30 for rule in recipe.rules)


def test_the_issues_recipes_are_shipped() -> None:
    assert {shipped.name for shipped in available()} >= {
        "none", "uniform-8bit", "gates-8bit", "deepseek-8bit", "naive-linear-8bit", "mlx-lm-default", "gates-4bit",
        "deepseek-4bit", "mixed-3-6", "mixed-4-6",
    }  # fmt: skip


def test_the_mode_is_doubted_only_where_another_would_do() -> None:
    doubt = "the rule names no mode"
    with pytest.raises(RecipeError, match=doubt):
        load_recipe("uniform-8bit", mode="mxfp4", sets=["role=lm_head:bits=8,group_size=64"])
    with pytest.raises(RecipeError) as caught:
        load_recipe("uniform-8bit", sets=["role=lm_head:bits=7"])
    assert doubt not in str(caught.value)
