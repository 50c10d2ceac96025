"""A search over rates tries the two in the middle and goes on from the better one."""

import pytest

from tessera.finetune.trials import climbing

RATES = (1, 2, 3, 4)


def order(scores: dict[int, float], rates: tuple[int, ...] = RATES) -> list[int]:
    tried = []

    def score(rate: float) -> float:
        tried.append(rate)
        return scores[rate]

    climbing(rates, score)
    return tried


@pytest.mark.parametrize(
    ("scores", "tried"),
    [
        ({2: 5, 3: 4, 1: 3}, [2, 3, 1]),
        ({2: 5, 3: 6, 4: 1}, [2, 3, 4]),
        ({2: 8, 3: 8, 1: 8, 4: 18}, [2, 3, 1, 4]),  # nothing learnt in the middle: both ways
    ],
)
def test_one_side_is_left_out_and_none_where_the_middle_says_nothing(scores, tried):
    assert order(scores) == tried


def test_it_goes_on_for_as_long_as_it_gets_better():
    scores = dict(zip(range(9), (9, 1, 2, 3, 4, 5, 6, 0, 9), strict=True))
    assert order(scores, tuple(range(9))) == [4, 5, 6, 7]


@pytest.mark.parametrize("rates", [(1,), (1, 2), (1, 2, 3)])
def test_few_rates_are_tried_as_far_as_they_go(rates):
    assert set(order(dict.fromkeys(rates, 0.5), rates)) == set(rates)


@pytest.mark.parametrize("best", RATES)
def test_of_scores_with_one_hill_the_top_is_found(best):
    scores = {rate: -abs(rate - best) + rate / 100 for rate in RATES}
    tried = order(scores)
    assert best in tried
    assert len(tried) == len(set(tried)) == 3
