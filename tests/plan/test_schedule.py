import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.plan.phase import BatchWarmup, LearningRate, Phase
from tessera.plan.schedule import boundary, learning_rate, learning_rate_at, total_steps


def phase(tokens: int = 1000, batch: int = 100, growth: BatchWarmup | None = None, **rate: object) -> Phase:
    return Phase.model_validate(
        {
            "name": "p", "from": "scratch", "tokens": tokens, "context": 8, "batch_tokens": batch,
            "batch_warmup": growth,
            "mask_ratio": 0.3, "learning_rate": {"peak": 1.0, **rate},
        }
    )  # fmt: skip


def curve(at: list[int], **rate: object) -> list[float]:
    return [learning_rate(LearningRate(peak=1.0, **rate), tokens, 100) for tokens in at]


def test_a_trapezoid_has_the_corners_that_were_drawn():
    assert curve([0, 5, 10, 50, 80, 90, 100], warmup=10, decay=20) == [0, 0.5, 1, 1, 1, 0.5, 0]


def test_the_floor_is_what_remains_of_the_peak():
    assert curve([80, 90, 100], decay=20, floor=0.5) == [1, 0.75, 0.5]


def test_one_minus_sqrt_falls_fast_first():
    assert curve([0, 25, 100], decay=100, shape="one_minus_sqrt") == [1, 0.5, 0]
    assert curve([100], decay=100, shape="one_minus_sqrt", floor=0.02) == pytest.approx([0.02])


def test_cosine_passes_the_middle_at_half():
    assert curve([0, 50, 100], decay=100, shape="cosine") == pytest.approx([1, 0.5, 0])


def test_mmbert_small_halves_its_peak_and_ends_where_base_ends():
    # 8e-4 halved to 4e-4, then linear to 0.04 of it: 1.6e-5, the same as 8e-4 * 0.02 of base (facts: B3)
    rate = LearningRate(peak=8e-4, halve_at=40, decay=50, floor=0.04)
    assert learning_rate(rate, 39, 100) == 8e-4
    assert learning_rate(rate, 100, 100) == pytest.approx(1.6e-5)


def test_a_step_takes_the_rate_of_the_middle_of_its_window():
    assert learning_rate_at(phase(warmup=1000), 0) == pytest.approx(0.05)
    assert learning_rate_at(phase(decay=1000), 9) == pytest.approx(0.05)


def test_batches_grow_linearly_in_steps():
    grown = phase(tokens=10_000, batch=100, growth=BatchWarmup(start=20, tokens=600))  # 2 * 600 / 120 = 10 steps
    assert [boundary(grown, s) for s in (0, 5, 10, 11)] == [0, 200, 600, 700]


@given(
    tokens=st.integers(200, 10**13), batch=st.integers(8, 10**7), share=st.floats(0.01, 1), length=st.floats(0.01, 3)
)
def test_windows_cover_the_phase_without_gap_and_end_with_it(tokens, batch, share, length):
    warmup = BatchWarmup(start=max(1, int(batch * share)), tokens=max(1, int(tokens * length)))
    for p in (phase(tokens, batch), phase(tokens, batch, warmup)):
        last = total_steps(p)
        assert boundary(p, last) == tokens > boundary(p, last - 1)
        for step in {0, 1, last // 3, last // 2, last - 1}:
            assert 0 <= boundary(p, step) <= boundary(p, step + 1) <= tokens
            assert boundary(p, step + 1) - boundary(p, step) <= batch + 1
