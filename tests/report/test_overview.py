"""What `tessera plan` shows; and that it predicts what the authors of mmBERT published."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tessera.cli import app
from tessera.plan.corpus import Bucket
from tessera.plan.loading import load
from tessera.plan.recipe import Recipe
from tessera.plan.token_counts import Inventory, from_counts
from tessera.report.overview import Machine, Overview, overview
from tessera.report.plan_tables import said, tables, write_csv

HOUSE = Path(__file__).parents[2]
COUNTS = HOUSE.parent / "shared" / "facts" / "mmbert_language_token_counts.csv"


def inventory(documents: int = 10, **tokens: int) -> Inventory:
    buckets = tuple(
        Bucket(source="web", language=c, tokens=n, documents=documents, bytes=4 * n) for c, n in tokens.items()
    )
    return Inventory(buckets=buckets, origin="here")


def recipe(tokens: int = 10_000, **mixture: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r", "corpus": {"sources": [{"name": "web", "path": "text"}]},
            "tokenizer": {"vocab_size": 1000}, "model": {"preset": "mmbert-small"},
            "phases": [{"name": "p", "from": "scratch", "tokens": tokens, "context": 64, "batch_tokens": 1000,
                        "mask_ratio": {"from": 0.3, "to": 0.1}, "batch_warmup": {"start": 100, "tokens": 2000},
                        "learning_rate": {"peak": 1.0, "warmup": 1000, "decay": 1000}, "mixture": mixture}],
        }
    )  # fmt: skip


def test_a_language_is_planned_by_hand():
    plan = overview(recipe(temperature=0.5), inventory(fao=900, dan=100)).phases[0]
    fao, dan = plan.languages
    assert (fao.language, fao.available, fao.tokens) == ("fao", 900, 7500)
    assert (fao.share, fao.epochs) == pytest.approx((0.75, 7500 / 900))
    assert (dan.share, dan.epochs) == pytest.approx((0.25, 25))
    assert plan.mean_length == pytest.approx(0.75 * 64 + 0.25 * 10)  # 90 tokens are cut at 64
    assert not plan.moves


def test_joints_say_where_every_curve_begins_and_ends():
    plan = overview(recipe(temperature={"from": 0.7, "to": 0.3}), inventory(fao=900, dan=100)).phases[0]
    start, end = plan.start, plan.end
    assert (start.mask_ratio, end.mask_ratio) == (0.3, 0.1)
    assert (start.temperature, end.temperature) == (0.7, 0.3)
    assert start.learning_rate < 0.2
    assert end.learning_rate < 0.6
    assert start.batch_tokens < 400
    assert end.batch_tokens == 1000
    assert plan.moves
    assert plan.languages[0].share_start > plan.languages[0].share > plan.languages[0].share_end


def test_the_model_has_the_vocabulary_that_will_be_trained():
    assert overview(recipe()).parameters["embedding"] == 1000 * 384


def test_repetition_and_caps_are_warned_of():
    often = overview(recipe(temperature=0.0), inventory(fao=100_000, dan=100)).warnings
    assert often == ("p: 1 languages are read more than 5 times: dan (50.0)",)
    assert not overview(recipe(temperature=0.0), inventory(fao=100_000, dan=100), warn_epochs=60).warnings
    capped = overview(recipe(temperature=0.0, max_epochs=4), inventory(fao=100_000, dan=100))
    assert capped.warnings == ("p: max_epochs 4 bites for 1: dan",)
    assert capped.phases[0].languages[1].epochs == pytest.approx(4)


def test_a_mixture_that_does_not_fit_names_its_phase():
    with pytest.raises(ValueError, match=r"phases\.p\.mixture: max_epochs: 1 epochs of all that is read are 200"):
        overview(recipe(max_epochs=1), inventory(fao=100, dan=100))


def test_a_model_too_large_for_the_gpu_is_warned_of():
    large = load(HOUSE / "recipes" / "eurobert-2.1b.yaml", {"machine.micro_batch_tokens": "65536"})
    warnings = overview(large, machine=Machine(gpu="l4", gpus=8)).warnings
    assert any("GB of a l4's 24 GB; lower machine.micro_batch_tokens" in line for line in warnings)


def test_long_lists_of_languages_are_cut_to_the_first_and_the_last():
    many = inventory(**{f"l{n:02d}": 10**6 - n for n in range(40)})
    plan = overview(recipe(temperature=1), many)
    rows = tables(plan)[-1][2]
    assert [row[0] for row in rows] == [f"l{n:02d}" for n in range(15)] + ["... 20 between"] + [
        f"l{n:02d}" for n in range(35, 40)
    ]
    assert len(tables(plan, everything=True)[-1][2]) == 40
    assert len(tables(overview(recipe(), inventory(**{f"l{n:02d}": 1000 for n in range(20)})))[-1][2]) == 20


def test_a_csv_has_a_row_for_each_phase_and_language(tmp_path):
    write_csv(overview(recipe(temperature=0.5), inventory(fao=900, dan=100)), tmp_path / "plan.csv")
    with (tmp_path / "plan.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["phase"], row["language"], row["available"], row["share"]) for row in rows] == [
        ("p", "fao", "900", "0.75"), ("p", "dan", "100", "0.25"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the command


def plan(*words: str) -> str:
    shown = CliRunner().invoke(app, ["plan", *words])
    assert shown.exit_code == 0, f"{shown.output}\n{shown.exception}"
    return shown.output


@pytest.mark.parametrize("path", sorted((HOUSE / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_planned_within_100_columns(path, tmp_path):
    shown = plan(str(path), "--out", str(tmp_path / "none"), "--gpus", "8")
    assert max(map(len, shown.splitlines())) <= 100
    assert "…" not in shown, "a cell is cut short"
    if "preset" in (path.read_text(encoding="utf-8")):  # a folder that is not here has no known size
        assert "GPU-hours at an MFU of 0.4" in shown
    assert "give counts with --counts FILE" in shown


MANY = """
name: many
corpus: {sources: [{name: web, path: text}]}
tokenizer: {vocab_size: 256000}
model: {preset: mmbert-base}
phases:
  - {name: pretrain, from: scratch, tokens: 1T, context: 1024, batch_tokens: 4M, mask_ratio: 0.3,
     learning_rate: {peak: 8e-4, warmup: 3B}, mixture: {languages: {largest: 60}, temperature: 0.7}}
  - name: decay
    from: pretrain
    tokens: 100B
    context: 8192
    batch_tokens: 4M
    mask_ratio: {from: 0.15, to: 0.05}
    learning_rate: {peak: 8e-4, decay: 100B, shape: one_minus_sqrt}
    mixture: {temperature: {from: 0.5, to: 0.3}, max_epochs: 5, entries: {l1800_Latn: 10B}}
"""


@pytest.fixture
def many(tmp_path):
    """1,833 languages as unequal as real ones: the largest 400 million times the smallest."""
    (tmp_path / "many.yaml").write_text(MANY)
    rows = [f"l{n:04d}_Latn,{int(1e12 / (1 + n) ** 2.6) + 200}" for n in range(1833)]
    (tmp_path / "counts.csv").write_text("\n".join(["language,tokens", *rows]))
    return tmp_path


def test_1833_languages_are_planned_in_seconds_without_torch(many):
    code = (
        "import sys\nfrom tessera.cli import app\n"
        f"app(['plan', {str(many / 'many.yaml')!r}, '--counts', {str(many / 'counts.csv')!r}, '--json'],"
        " standalone_mode=False)\n"
        "assert not {'torch', 'numpy', 'transformers', 'altair'} & set(sys.modules), 'a heavy import'\n"
    )
    began = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOUSE, check=False)
    ended = os.times()
    seconds = sum(getattr(ended, name) - getattr(began, name) for name in ("children_user", "children_system"))
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    print(f"planned 1,833 languages in {seconds:.1f} s")
    assert seconds < 60  # of the processor; it needs two
    assert [len(phase["languages"]) for phase in shown["phases"]] == [60, 1833]
    for phase in shown["phases"]:
        assert sum(row["share"] for row in phase["languages"]) == pytest.approx(1)
        assert phase["gpu_hours"] > 0
    decay = shown["phases"][1]["languages"]
    assert max(row["epochs"] for row in decay) <= 5 * (1 + 1e-6)
    assert sum(row["capped"] for row in decay) > 100


def test_the_command_writes_csv_and_an_image(many):
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    shown = plan(
        str(many / "many.yaml"), "--counts", str(many / "counts.csv"),
        "--csv", str(many / "plan.csv"), "--plot", str(many / "plan.png"),
    )  # fmt: skip
    assert max(map(len, shown.splitlines())) <= 100
    assert "... 1813 between" in shown
    assert "max_epochs 5 bites for" in shown
    assert len((many / "plan.csv").read_text().splitlines()) == 1 + 60 + 1833
    assert (many / "plan.png").read_bytes()[1:4] == b"PNG"


def test_a_plan_without_languages_cannot_be_drawn(many):
    from tessera.report.plan_tables import draw_plan

    with pytest.raises(ValueError, match="the plan knows no languages yet"):
        draw_plan(overview(load(many / "many.yaml")), many / "plan.png")


# ------------------------------------------------------------------------------------------------- what was published


def published(column: str, common: list[str]) -> dict[str, float]:
    with COUNTS.open(encoding="utf-8") as file:
        counts = {row["language"]: int(row[column]) for row in csv.DictReader(file)}
    return {code: counts[code] / sum(counts[c] for c in common) for code in common}


@pytest.fixture(scope="module")
def mmbert() -> tuple[Overview, list[str]]:
    """mmBERT's recipe on the inventory that its pre-training counts tell of, and the languages in all its phases."""
    if not COUNTS.is_file():
        pytest.skip("the published token counts of mmBERT are not here")
    with COUNTS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    common = [r["language"] for r in rows if int(r["pretrain"]) and int(r["ext"]) and r["language"] not in NOT_DRAWN]
    read = load(HOUSE / "recipes" / "mmbert-base.yaml")
    return overview(read, from_counts(f"{COUNTS}:pretrain", read, 1 / 0.7)), common


NOT_DRAWN = ("eng", "code")  # their shares are fixed, not drawn by temperature


def errors(plan: Overview, phase: str, column: str, common: list[str]) -> dict[str, float]:
    """Planned over published share among the common languages, minus 1; printed with the slope and the residual."""
    rows = next(p for p in plan.phases if p.name == phase).languages
    share = {row.language.partition("_")[0]: row.share for row in rows}
    whole, want = sum(share[c] for c in common), published(column, common)
    wrong = {c: share[c] / whole / want[c] - 1 for c in common}
    slope, residual = fit(published("pretrain", common), want)
    worst = sorted(wrong, key=lambda c: -abs(wrong[c]))[:8]
    print(f"{column}: log-log slope on pre-training {slope:.4f}, residual {residual:.4f}")
    print("  largest errors: " + ", ".join(f"{c} {100 * wrong[c]:+.1f}%" for c in worst))
    return wrong


def fit(x: dict[str, float], y: dict[str, float]) -> tuple[float, float]:
    """Slope of log y on log x, and the standard deviation of what is left."""
    points = [(math.log(x[c]), math.log(y[c])) for c in x]
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    slope = sum((a - mean_x) * (b - mean_y) for a, b in points) / sum((a - mean_x) ** 2 for a, _ in points)
    left = [b - mean_y - slope * (a - mean_x) for a, b in points]
    return slope, math.sqrt(sum(r * r for r in left) / (len(left) - 2))


def test_the_plan_of_mmbert_predicts_its_published_mid_training(mmbert):
    plan, common = mmbert
    assert len(common) == 59
    wrong = errors(plan, "mid", "ext", common)
    within = [c for c in common if abs(wrong[c]) < 0.04]
    print(f"  within 4%: {len(within)} of {len(common)}")
    assert [c for c in common if c not in within] == ["xho"]
    slope, residual = fit(published("pretrain", common), published("ext", common))
    assert (slope, residual) == pytest.approx((0.707, 0.024), abs=0.001)


def test_the_plan_of_mmbert_predicts_its_published_decay(mmbert):
    plan, common = mmbert
    wrong = errors(plan, "decay-cont", "decay-mid", common)
    within = [c for c in common if abs(wrong[c]) < 0.1]
    print(f"  within 10%: {len(within)} of {len(common)}")
    assert len(within) == 54
    assert max(common, key=lambda c: abs(wrong[c])) == "swe"
    for phase, column in (("decay-eng", "decay-eng"), ("decay-all", "decay-all")):
        other = errors(plan, phase, column, common)
        print(f"  within 10%: {sum(abs(error) < 0.1 for error in other.values())} of {len(common)}")
        assert other["swe"] < -0.1  # in all three decays there is more Swedish than the temperature gives


def test_xhosa_was_read_whole_in_pre_training(mmbert):
    """Why it is off: its pre-training count is all of its text, less than the temperature asked for, so the power of
    that count is too small an inventory. The decays count the same text again, mid-training about twice."""
    plan, common = mmbert
    with COUNTS.open(encoding="utf-8") as file:
        xhosa = next(row for row in csv.DictReader(file) if row["language"] == "xho")
    once = int(xhosa["pretrain"])
    assert int(xhosa["decay-eng"]) / once == pytest.approx(1, abs=0.02)
    assert int(xhosa["decay-mid"]) / once == pytest.approx(1, abs=0.02)
    assert int(xhosa["ext"]) / once == pytest.approx(2, abs=0.03)
    wrong = errors(plan, "mid", "ext", common)["xho"]
    assert wrong < -0.15
    assert (1 + wrong) ** -1.4 == pytest.approx(1.3, abs=0.02)  # it would have been drawn 1.3 times in pre-training


def test_what_is_said_below_the_tables_names_the_text_and_what_is_missing(mmbert):
    plan, _ = mmbert
    lines = said(plan)
    assert "to the power of 1.42857" in lines[0]
    assert any("code, eng left out" in line for line in lines)
    assert any(line.startswith("warning: mid: no counts of als_Latn") for line in lines)
