"""An ablation as people see it: tables, a picture."""

import re
from typing import Any

import pytest

from tessera.ablation.tables import draw, said, tables

BITS = {"name": "held-out", "unit": "bits per byte", "lower_is_better": True}
TOPICS = {"name": "topics", "unit": "%", "lower_is_better": False}


def row(
    measure: str, label: str, delta: float, pooled: float | None, variant: str = "v", axis: str = "mask_ratio"
) -> Any:
    return {"axis": axis, "label": label, "variant": f"{variant}-{label}" if variant == "v" else variant,
            "measure": measure, "mean": 3 + delta, "spread": 0.01, "delta": delta, "own": pooled and 2 * pooled,
            "pooled": pooled, "seeds": [1, 2, 3], "scores": {}}  # fmt: skip


@pytest.fixture
def study() -> dict[str, Any]:
    reference = {"mean": 3.0, "spread": 0.01, "scores": {}}
    return {
        "recipe": "small", "phase": "decay", "from": "runs/small/mid/final", "tokens": 100_000,
        "measures": [BITS, TOPICS], "reference": {"held-out": reference, "topics": reference},
        "rows": [
            row("held-out", "0.05", 0.0, None, "reference"), row("held-out", "0.1", -0.05, 0.02),
            row("held-out", "0.3", 0.05, 0.02), row("topics", "0.05", 0.0, None, "reference"),
            row("topics", "0.1", -5.0, 2.0), row("topics", "0.3", 1.0, 2.0),
        ],
    }  # fmt: skip


def test_fewer_bits_are_better_and_fewer_percent_are_worse(study):
    (bits, _, of_bits), (topics, _, of_topics) = tables(study)
    assert bits == "held-out, bits per byte (lower is better)"
    assert topics == "topics, % (higher is better)"
    assert [(cells[1], cells[4], cells[-1]) for cells in of_bits] == [
        ("0.05", "+0.0000", "baseline"), ("0.1", "-0.0500", "better"), ("0.3", "+0.0500", "worse")
    ]  # fmt: skip
    assert [cells[-1] for cells in of_topics] == ["baseline", "worse", ""]


def test_the_reader_is_told_how_many_differences_chance_would_make(study):
    first, _ = said(study)
    assert first == (
        "3 of 4 differences are beyond both intervals (3 beyond their own, 3 beyond the pooled one); "
        "chance alone would take about 0 beyond each"
    )


def test_one_seed_is_said_to_prove_nothing(study):
    rows = [{**r, "pooled": None, "own": None, "seeds": [1]} for r in study["rows"]]
    assert said({**study, "rows": rows}) == ["1 seed: no interval can be given; use --seeds 3 or more"]


def test_better_is_on_the_right_whichever_way_a_measure_counts(study, tmp_path):
    draw(study, tmp_path / "deltas.html")
    page = (tmp_path / "deltas.html").read_text(encoding="utf-8")
    assert "<script src=" not in page  # it opens without a network
    assert re.search(r'"reverse": ?true', page)
    draw(study, tmp_path / "deltas.png")
    assert (tmp_path / "deltas.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_another_kind_is_refused(study, tmp_path):
    with pytest.raises(ValueError, match=r"ends in one of \.png, \.svg, \.html"):
        draw(study, tmp_path / "deltas.pdf")


def test_a_difference_must_be_beyond_both_intervals_to_count(study):
    for wide in ("own", "pooled"):
        rows = [{**r, wide: 100.0} if r["pooled"] else r for r in study["rows"]]
        assert {cells[-1] for _, _, of in tables({**study, "rows": rows}) for cells in of} == {"baseline", ""}
