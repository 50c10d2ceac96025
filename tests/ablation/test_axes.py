"""What --vary means, before any text or model is looked at."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from tessera.ablation.axes import Ablation, read
from tessera.plan.loading import RecipeError

HOUSE = Path(__file__).parents[2]
PAGE = (HOUSE / "docs" / "ablate.md").read_text(encoding="utf-8")
RECIPE = {
    "name": "small",
    "corpus": {"sources": [{"name": "web", "path": "text"}, {"name": "code", "path": "code"}]},
    "model": {"preset": "mmbert-small"},
    "phases": [
        {"name": "mid", "from": "scratch", "tokens": 1000, "context": 64, "batch_tokens": 100, "mask_ratio": 0.15,
         "learning_rate": {"peak": 1e-3}},
        {"name": "decay", "from": "mid", "tokens": 1000, "context": 64, "batch_tokens": 100, "mask_ratio": 0.05,
         "learning_rate": {"peak": 1e-3, "decay": 1000},
         "mixture": {"languages": {"largest": 60}, "temperature": 0.3, "shares": {"code": 0.1, "web/eng_Latn": 0.2}}},
    ],
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


def shown(ablation: Ablation) -> list[tuple[str, str, str]]:
    return [(axis.key, v.name, v.label) for axis in ablation.axes for v in axis.variants]


def refused(recipe: Path, *vary: str, **more: object) -> str:
    with pytest.raises(RecipeError) as caught:
        read(recipe, vary, **more)
    return str(caught.value)


def test_each_value_is_a_variant_and_the_recipes_own_is_the_baseline(recipe):
    assert shown(read(recipe, ["phases.decay.mask_ratio=0.05,0.1,0.3"])) == [
        ("mask_ratio", "reference", "0.05"),
        ("mask_ratio", "mask_ratio-0.1", "0.1"),
        ("mask_ratio", "mask_ratio-0.3", "0.3"),
    ]


def test_one_axis_moves_at_a_time(recipe):
    ablation = read(recipe, ["phases.decay.mask_ratio=0.3", "phases.decay.mixture.shares.code=0"])
    baseline, masked, without_code = ablation.variants
    assert [v.phase.mask_ratio for v in ablation.variants] == [0.05, 0.3, 0.05]
    assert [v.phase.mixture.shares["code"] for v in ablation.variants] == [0.1, 0.1, 0.0]
    assert masked.phase.model_copy(update={"mask_ratio": 0.05}) == baseline.phase
    assert without_code.phase.name == baseline.phase.name  # which orders the batches


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ("crop=null,{how: complementary}", ["null", "{how: complementary}"]),
        ("crop={how: uniform, min_length: 8}", ["{how: uniform, min_length: 8}"]),
        ("mixture.languages={largest: 9}, all, [fao_Latn, dan_Latn]", ["largest: 9", "all", "[fao_Latn, dan_Latn]"]),
        ("mixture.shares.web/eng_Latn=0.2,0.4", ["0.2", "0.4"]),
        ("mixture.tiers=[3],[3, 4]", ["[3]", "[3, 4]"]),
        ("mixture.temperature={from: 0.7, to: 0.3}", ["{from: 0.7, to: 0.3}"]),
        ("mask_replacement=mask,80-10-10", ["mask", "80-10-10"]),
    ],
)  # fmt: skip
def test_values_are_yaml_and_commas_inside_brackets_separate_nothing(recipe, axis, labels):
    assert [label for _, _, label in shown(read(recipe, [f"phases.decay.{axis}"]))] == labels


def test_a_whole_mixture_is_told_by_what_it_changes(recipe):
    same = "{languages: {largest: 60}, temperature: 0.3, shares: {code: 0.1, web/eng_Latn: 0.2}}"
    other = "{languages: all, temperature: 0.3, shares: {web/eng_Latn: 0.4}}"
    _, (_, name, label) = shown(read(recipe, [f"phases.decay.mixture={same},{other}"]))
    assert label == "languages: all, shares.web/eng_Latn: 0.4, shares.code: null"
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_values_that_read_alike_have_folders_of_their_own(recipe):
    axis = "phases.decay.mixture.languages=[a_Latn, b_Latn],[a_Latn b_Latn],[a_Latn-b_Latn]"
    names = [name for _, name, _ in shown(read(recipe, [axis]))]
    assert len(set(names)) == 3


def test_the_values_of_an_axis_can_be_merged(recipe):
    keys = ["phases.decay.mixture.languages={largest: 60},all", "phases.decay.mask_ratio=0.3"]
    languages, masks = read(recipe, keys, merge=["phases.decay.mixture.languages"]).axes
    assert languages.variants[-1].merged == ("reference", "mixture.languages-all")
    assert [v.merged for v in masks.variants] == [()]


def test_overrides_hold_for_the_baseline_too(recipe):
    ablation = read(recipe, ["phases.decay.mask_ratio=0.3"], {"phases.decay.context": "32"})
    assert [v.phase.context for v in ablation.variants] == [32, 32]


def test_a_bad_key_is_refused_with_a_suggestion(recipe):
    assert refused(recipe, "phases.decay.mask_rato=0.1").endswith("unknown key 'mask_rato'; did you mean 'mask_ratio'?")
    assert "'deca' is no phase of the recipe; did you mean 'decay'?" in refused(recipe, "phases.deca.mask_ratio=0.1")
    assert "only a phase can vary" in refused(recipe, "model.preset=mmbert-base")
    assert "name a key of the phase, e.g. phases.decay.mask_ratio" in refused(recipe, "phases.decay={}")
    assert "--from says where they start" in refused(recipe, "phases.decay.from=mid")
    merge = refused(recipe, "phases.decay.mask_ratio=0.1,0.2", merge=["phases.decay.mask"])
    assert merge == "--merge phases.decay.mask: this is not varied; did you mean 'phases.decay.mask_ratio'?"


def test_a_value_that_makes_the_recipe_invalid_is_refused_by_name(recipe):
    told = refused(recipe, "phases.decay.mask_ratio=0.1,30")
    assert told.startswith("--vary phases.decay.mask_ratio=30: ")
    assert told.endswith("30.0 is not a share; give a value between 0 and 1")
    assert "shares add up to 1.1000" in refused(recipe, "phases.decay.mixture.shares.code=0.9")
    assert "need 2000 tokens" in refused(recipe, "phases.decay.learning_rate.warmup=1000")


@pytest.mark.parametrize("text", ["phases.decay.mask_ratio", "phases.decay.mask_ratio=", "phases.decay.crop={how: "])
def test_what_cannot_be_read_is_refused_with_an_example(recipe, text):
    assert "e.g. phases.decay" in (told := refused(recipe, text)) or "in quotes against the shell" in told


def test_axes_of_two_phases_have_no_common_baseline(recipe):
    told = refused(recipe, "phases.decay.mask_ratio=0.1", "phases.mid.mask_ratio=0.1")
    assert told == "--vary: decay and mid are two phases, and the baseline is one; ablate one after the other"
    assert "varied twice" in refused(recipe, "phases.decay.mask_ratio=0.1", "phases.decay.mask_ratio=0.2")
    assert "nothing is varied" in refused(recipe)


def test_where_every_token_has_a_fixed_share_the_others_make_room_in_proportion(recipe):
    whole = {"phases.decay.mixture.shares": "{code: 0.1, parallel: 0.3, web/eng_Latn: 0.6}"}
    axes = ["phases.decay.mixture.shares.code=0.1,0.55", "phases.decay.mixture.shares.math=0.5"]
    _, more, new = read(recipe, axes, whole).variants
    assert more.phase.mixture.shares == pytest.approx({"code": 0.55, "parallel": 0.15, "web/eng_Latn": 0.3})
    assert new.phase.mixture.shares == pytest.approx({"code": 0.05, "parallel": 0.15, "web/eng_Latn": 0.3, "math": 0.5})


@pytest.mark.parametrize("axis", re.findall(r"^\| .* \| `(phases\.annealing\..*)` \|$", PAGE, re.MULTILINE))
def test_every_axis_of_eurobert_that_the_page_names_can_be_asked_for(axis):
    recipe = HOUSE / "recipes" / "eurobert-210m.yaml"
    values = read(recipe, [axis]).axes[0].variants
    assert len({variant.name for variant in values}) == len(values) >= 2


@pytest.mark.parametrize("command", re.findall(r"^tessera ablate (?:.*\n)+?(?=```)", PAGE, re.MULTILINE))
def test_every_command_of_the_page_can_be_asked_for(command):
    words = shlex.split(command.replace("\\\n", " "))
    asked = {flag: [b for a, b in itertools.pairwise(words) if a == flag] for flag in ("--vary", "--merge")}
    assert read(HOUSE / words[2], asked["--vary"], merge=asked["--merge"]).variants


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("[" * 5_000, "nested more than"),
        ("{a: &a [1, 1], b: [*a, *a]" + "".join(f", c{n}: 1" for n in range(3)), "expected"),
        ("0.1,[", "expected"),
    ],
)
def test_values_that_are_no_yaml_are_refused_whatever_they_are(recipe, given, why):
    told = refused(recipe, f"phases.decay.mask_ratio={given}")
    assert why in told
    assert len(told) < 900
