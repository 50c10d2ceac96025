"""Token counts of a recipe that was copied to smaller text."""

import pytest

from tessera.plan import fit
from tessera.plan.corpus import Bucket
from tessera.plan.mixture import mixture_of
from tessera.plan.phase import Phase
from tessera.plan.schedule import total_steps


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


def test_auto_is_as_many_whole_steps_as_the_text_allows_and_ramps_that_fit():
    asked = phase(tokens="auto", batch_tokens="10k", context=64, checkpoint_every=None)
    found = fit.settled_phase(asked, text(100_000, 50_001))
    assert (found.tokens, found.batch_tokens) == (600_000, 10_000)
    assert (found.learning_rate.warmup, found.learning_rate.decay) == (100_000, 500_000)  # 200M and 1B, as 1 to 5
    fit.check([found], text(100_000, 50_001))
    kept = phase(tokens="auto", batch_tokens="10k", learning_rate={"peak": 1e-3, "warmup": "20k"})
    assert fit.settled_phase(kept, text(150_000)).learning_rate == kept.learning_rate


@pytest.mark.parametrize("sizes", [(1_000,), (5, 100_000), (300, 300, 300), (10**6, 7)])
@pytest.mark.parametrize(
    "mixture",
    [{}, {"temperature": {"from": 1.0, "to": 0.0}}, {"shares": {"l00_Latn": 1.0}}, {"languages": ["l00_Latn"]}],
)
def test_one_step_more_than_auto_is_more_than_the_text_allows(sizes, mixture):
    asked = phase(tokens="auto", context=8, batch_tokens=100, mixture={"max_epochs": 2, **mixture})
    found = fit.settled_phase(asked, text(*sizes))
    mixture_of(found, text(*sizes))
    assert found.tokens % found.batch_tokens == 0
    if mixture.get("temperature") is None:  # with curves, more may fit now and then
        longer = found.model_copy(update={"tokens": found.tokens + found.batch_tokens})
        with pytest.raises(ValueError, match="max_epochs"):
            mixture_of(longer, text(*sizes))


def test_auto_without_a_cap_or_without_text_is_refused_in_words():
    with pytest.raises(ValueError, match=r"tokens: auto reads as much as mixture\.max_epochs allows; say how often"):
        phase(tokens="auto", mixture={})
    with pytest.raises(ValueError, match=r"pretrain\.tokens: auto: 40 tokens can be read, too few for one step"):
        fit.settled_phase(phase(tokens="auto"), text(10))
    with pytest.raises(ValueError, match=r"phases\.pretrain\.tokens is auto, which needs text to count"):
        total_steps(phase(tokens="auto"))
    for wrong in (0, "0", "many", None):
        with pytest.raises(ValueError, match="tokens"):
            phase(tokens=wrong)


def test_a_recipe_with_auto_is_written_and_read_back_as_it_is():
    asked = phase(tokens="auto")
    assert asked.model_dump(by_alias=True)["tokens"] == asked.model_dump(mode="json", by_alias=True)["tokens"] == "auto"
    assert Phase.model_validate(asked.model_dump(by_alias=True)) == asked
