"""Token counts of a recipe that was copied to smaller text."""

import pytest

from tessera.plan import fit
from tessera.plan.corpus import Bucket
from tessera.plan.mixture import mixture_of
from tessera.plan.recipe import Phase


def phase(**changed: object) -> Phase:
    data = {
        "name": "pretrain", "from": "scratch", "tokens": "2B", "context": 64, "batch_tokens": "1M", "mask_ratio": 0.3,
        "learning_rate": {"peak": 1e-3, "warmup": "200M", "decay": "1B"}, "checkpoint_every": "500M",
        "mixture": {"max_epochs": 4},
    }  # fmt: skip
    return Phase.model_validate({**data, **changed})


def text(*tokens: int) -> list[Bucket]:
    return [
        Bucket(source="web", language=f"l{n:02}_Latn", tokens=size, documents=9, bytes=9)
        for n, size in enumerate(tokens)
    ]


def test_the_lengths_that_fit_are_named_ready_to_paste_for_all_phases_at_once():
    phases = [phase(), phase(name="decay", **{"from": "pretrain"}), phase(name="free", mixture={})]
    with pytest.raises(ValueError, match="max_epochs") as error:
        fit.check(phases, text(100_000, 50_000))
    said = str(error.value)
    assert "phases.pretrain.mixture: max_epochs: 4 epochs of all that is read are 600000 tokens" in said
    assert "phases.decay.mixture: max_epochs" in said
    assert "phases.free" not in said
    for name in ("pretrain", "decay"):
        for value in ("tokens=600k", "learning_rate.warmup=60k", "learning_rate.decay=300k", "checkpoint_every=150k",
                      "batch_tokens=30k"):  # fmt: skip
            assert f"--set phases.{name}.{value}" in said


@pytest.mark.parametrize("sizes", [(1_000,), (5, 100_000), (300, 300, 300), (10**9, 7)])
@pytest.mark.parametrize(
    "mixture", [{}, {"temperature": {"from": 1.0, "to": 0.0}}, {"shares": {"l00_Latn": 0.9}}, {"entries": {}}]
)
def test_a_phase_that_was_fitted_is_filled_by_the_text(sizes, mixture):
    fitted = fit.fitting(phase(mixture={"max_epochs": 2, **mixture}), text(*sizes))
    if fitted is not None:
        mixture_of(fitted, text(*sizes))
        assert fitted.tokens <= 2 * sum(sizes)


def test_what_fits_is_left_as_it_is():
    fit.check([phase()], text(10**9))
    assert fit.fitting(phase(), text(10**9)) == phase()
