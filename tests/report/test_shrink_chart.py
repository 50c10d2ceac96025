"""The picture of smaller models: shares of the whole model's scores, whatever those are."""

from tessera.report.shrink_chart import draw_curve


def row(name, layers, near, **scores):
    return {"model": name, "in_layers": layers, "speed": 1.0, "near": near, "scores": scores}


def test_a_score_of_nothing_is_left_out_and_the_others_are_shares_of_the_whole_models(tmp_path):
    rows = [row("whole", 10, 1.0, topics=80.0, lost=0.0), row("half", 5, 0.9, topics=60.0, lost=5.0, new=3.0)]
    page = draw_curve(rows, tmp_path / "curve.html", "cosine").read_text(encoding="utf-8")
    assert '"kept": 75.0' in page or '"kept":75.0' in page
    assert "lost" not in page
    assert '"new"' not in page
