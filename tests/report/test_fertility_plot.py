"""The picture of a tokenizer's costs names few languages and ranks many; nothing of a name gets out of its place."""

import json
import re
import struct

import pytest

from tessera.report.fertility import draw_fertility

pytest.importorskip("altair")


def rows(n, parallel=False, scripts=("Latn", "Cyrl", "Hani")):
    return [
        {
            "language": f"l{i:03d}_{scripts[i % len(scripts)]}",
            "cost": 1 + i / 10,
            "relative": 1 + i / 10 if parallel else None,
            "tokens_per_word": 1.5,
            "bytes_per_token": 4.0,
            "byte_fallback_share": 0.01,
        }
        for i in range(n)
    ]


def size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">II", data[16:24])


def drawn(path):
    """The chart that a page draws."""
    found = re.search(r'id="specs">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("n", [1, 10, 60])
def test_few_languages_have_a_row_each_best_first(tmp_path, n):
    page = draw_fertility(list(reversed(rows(n))), tmp_path / "few.html")
    spec = drawn(page)
    assert spec["height"] == {"step": 18}
    order = spec["layer"][0]["encoding"]["y"]["sort"]
    assert order == [row["language"] for row in rows(n)]


def test_a_picture_grows_with_the_languages_until_they_are_too_many_to_name(tmp_path):
    heights = [size(draw_fertility(rows(n), tmp_path / f"{n}.png"))[1] for n in (10, 60, 61, 500)]
    assert heights[0] < heights[1]
    assert heights[2] == heights[3] < 1300


def test_all_of_500_languages_are_points_and_some_have_names(tmp_path):
    spec = drawn(draw_fertility(rows(500), tmp_path / "plots" / "many.html"))
    points, names = (layer["data"]["values"] for layer in spec["layer"])
    assert [row["rank"] for row in points] == list(range(1, 501))
    assert len(names) == 24
    assert {names[0]["rank"], names[-1]["rank"]} == {1, 500}


def test_it_says_whether_costs_are_measured_or_estimated(tmp_path):
    for parallel, says in ((True, "tokens for the same content"), (False, "the same information (estimate)")):
        spec = drawn(draw_fertility(rows(10, parallel), tmp_path / "plot.html"))
        assert says in spec["title"]["subtitle"]
        assert spec["title"]["subtitle"].endswith("relative to l000_Latn")


@pytest.mark.parametrize(("scripts", "others"), [(8, False), (9, True)])
def test_rare_scripts_share_a_colour_where_there_are_more_than_colours(tmp_path, scripts, others):
    given = rows(40, scripts=[f"Scr{i}" for i in range(scripts)])
    scale = drawn(draw_fertility(given, tmp_path / "plot.html"))["layer"][0]["encoding"]["color"]["scale"]
    assert len(scale["domain"]) == len(scale["range"]) == len(set(scale["range"])) == 8
    assert ("other scripts" in scale["domain"]) == others


def test_a_language_without_a_script_is_drawn_too(tmp_path):
    given = [{**rows(1)[0], "language": "code"}, *rows(3)]
    scale = drawn(draw_fertility(given, tmp_path / "plot.html"))["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["Latn", "Cyrl", "Hani", "other scripts"]


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(ValueError, match="--plot: no language was measured"):
        draw_fertility([], tmp_path / "plot.png")
    with pytest.raises(
        ValueError, match=r"plot.jpg cannot be written; give a name that ends in one of .png, .svg, .html"
    ):
        draw_fertility(rows(2), tmp_path / "plot.jpg")
