"""Differences to the baseline and their intervals, against answers worked out by hand."""

import json
import math
from pathlib import Path

import pytest
from damage import survives
from hypothesis import given
from hypothesis import strategies as st

from tessera.ablation.deltas import study
from tessera.statistics import critical_t, interval, pooled_spread

ASKED = {
    "recipe": "small", "phase": "decay", "from": "runs/small/mid/final", "tokens": 100, "seeds": [1, 2],
    "tasks": ["held_out", "topics"],
    "axes": [{"key": "mask_ratio", "reference": "0.05",
              "values": [{"label": "0.05", "variant": "reference"}, {"label": "0.3", "variant": "mask_ratio-0.3"}]}],
    "tessera": "0",
}  # fmt: skip


def put(folder: Path, variant: str, seed: int, task: str, results: dict[str, float]) -> None:
    metric = "bits_per_byte" if task == "held_out" else "accuracy"
    rows = {code: {metric: value} for code, value in results.items()}
    kind = "held_out" if task == "held_out" else "probe"
    data = {"model": "decay", "task": task, "kind": kind, "results": rows}
    data["average"] = {metric: sum(results.values()) / len(results)}
    path = folder / variant / f"seed-{seed}" / "evaluation" / f"decay.{task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    (tmp_path / "ablation.json").write_text(json.dumps(ASKED))
    for variant, seed, share in (("reference", 1, 0.1), ("reference", 2, 0.3), ("mask_ratio-0.3", 1, 0.2)):
        put(tmp_path, variant, seed, "topics", {"dan_Latn": share, "fao_Latn": share})
    return tmp_path


def rows(folder: Path, measure: str) -> dict[str, dict]:
    return {row["variant"]: row for row in study(folder)["rows"] if row["measure"] == measure}


def test_two_seeds_worked_out_by_hand(ablation):
    put(ablation, "mask_ratio-0.3", 2, "topics", {"dan_Latn": 0.5, "fao_Latn": 0.7})
    row = rows(ablation, "topics")["mask_ratio-0.3"]
    assert row["scores"] == pytest.approx({1: 20, 2: 60})
    assert row["mean"] == pytest.approx(40)
    assert row["delta"] == pytest.approx(20)  # of 10 and 30
    # t with one degree of freedom is 12.706; the differences spread by sqrt(200), over the root of two seeds: 10
    assert row["own"] == pytest.approx(127.06, abs=0.01)
    assert row["pooled"] == pytest.approx(row["own"])


def test_a_difference_is_taken_only_over_seeds_that_both_have(ablation):
    row = rows(ablation, "topics")["mask_ratio-0.3"]
    assert (row["seeds"], row["own"], row["pooled"]) == ([1], None, None)
    assert row["delta"] == pytest.approx(10)  # not 20 less the mean of both seeds of the baseline


def test_the_recipes_own_value_is_the_baseline_and_differs_in_nothing(ablation):
    row = rows(ablation, "topics")["reference"]
    assert (row["delta"], row["own"], row["pooled"], row["label"]) == (0, None, None, "0.05")


def test_held_out_text_is_told_apart_by_what_the_baseline_reads(ablation):
    bits = {"dan_Latn": 1.0, "fao_Latn": 3.0, "code_Python": 9.0}
    put(ablation, "reference", 1, "held_out", bits)
    path = ablation / "reference" / "seed-1" / "decay" / "mixture.json"
    path.parent.mkdir()
    buckets = [{"language": "dan_Latn", "share_planned": 0.5}, {"language": "fao_Latn", "share_planned": 0.0}]
    path.write_text(json.dumps({"buckets": buckets}))
    found = {name: part["mean"] for name, part in study(ablation)["reference"].items() if name != "topics"}
    assert found == {
        "held-out": 2.0,
        "held-out, languages read": 1.0,
        "held-out, languages not read": 3.0,
        "held-out, code": 9.0,
    }


def test_a_folder_that_is_no_ablation_or_has_no_baseline_yet_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no ablation \(ablation\.json is missing\)"):
        study(tmp_path)
    (tmp_path / "ablation.json").write_text(json.dumps(ASKED))
    put(tmp_path, "mask_ratio-0.3", 1, "topics", {"dan_Latn": 0.5})
    with pytest.raises(ValueError, match="the baseline is not finished with any seed"):
        study(tmp_path)


scores = st.lists(st.floats(-100, 100), min_size=2, max_size=6)


@given(st.data(), scores)
def test_with_one_variant_beside_the_baseline_pooling_changes_nothing(data, base):
    other = data.draw(st.lists(st.floats(-100, 100), min_size=len(base), max_size=len(base)))
    found = pooled_spread({"reference": dict(enumerate(base)), "other": dict(enumerate(other))})
    assert found is not None
    spread, freedom = found
    _, own = interval([a - b for a, b in zip(other, base, strict=True)])
    assert freedom == len(base) - 1
    assert math.isclose(critical_t(0.95, freedom) * spread * math.sqrt(2 / len(base)), own, rel_tol=1e-6, abs_tol=1e-9)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=5), st.lists(st.floats(-10, 10), min_size=2, max_size=5))
def test_where_seeds_move_all_variants_alike_there_is_no_chance_left(of_variant, of_seed):
    found = pooled_spread({str(v): {s: a + b for s, b in enumerate(of_seed)} for v, a in enumerate(of_variant)})
    assert found is not None
    assert found[0] < 1e-9


@pytest.mark.parametrize(("inputs", "seconds"), [(150, 60), pytest.param(4_000, 60, marks=pytest.mark.slow)])
def test_any_damaged_file_of_an_ablation_is_read_or_refused_by_name(tmp_path, inputs, seconds):
    (tmp_path / "ablation.json").write_text(json.dumps(ASKED))
    for variant, seed in (("reference", 1), ("reference", 2), ("mask_ratio-0.3", 1), ("mask_ratio-0.3", 2)):
        put(tmp_path, variant, seed, "topics", {"dan_Latn": 0.1 * seed, "fao_Latn": 0.2})
        put(tmp_path, variant, seed, "held_out", {"dan_Latn": 1.1, "fao_Latn": 2.0})
    mixture = tmp_path / "reference" / "seed-1" / "decay" / "mixture.json"
    mixture.parent.mkdir()
    mixture.write_text(json.dumps({"buckets": [{"language": "dan_Latn", "share_planned": 0.5}]}))
    results = sorted(tmp_path.glob("reference/*/evaluation/*.json"))
    files = [tmp_path / "ablation.json", mixture, *results[:2]]

    def read():
        try:
            study(tmp_path)
        except ValueError as error:
            if str(tmp_path) not in str(error):
                raise RuntimeError("it names none of them") from error
            below = f"{mixture.parent} {results[0].parent}"  # of whichever file: damage.py asks for that of the damaged
            raise ValueError(f"{below}: {str(error)[:2000]}") from None

    assert survives(read, files, inputs=inputs, seconds=seconds)["refused"] > 0
