"""Token-level distillation: segments of two cuts of one text, the loss by hand, and rows that learn by it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.retrieval.token_states import TokenLesson, segments

ENDS = st.lists(st.integers(1, 30), min_size=1, max_size=20).map(sorted)


def ends(*places):
    return np.array(places, np.int64)


def test_segments_end_where_both_end_a_token():
    first, second = segments(ends(0, 2, 4, 7, 9, 0), ends(0, 1, 4, 9, 0))
    assert first.tolist() == [-1, 0, 0, 1, 1, -1]  # 4 and 9 are ends of both; special tokens end nowhere
    assert second.tolist() == [-1, 0, 0, 1, -1]


def test_what_one_side_cut_off_is_in_no_segment():
    first, second = segments(ends(3, 6, 9), ends(3, 5))
    assert (first.tolist(), second.tolist()) == ([0, -1, -1], [0, -1])


@given(ENDS, ENDS)
def test_segments_rise_and_hold_tokens_of_both_sides(one, other):
    first, second = segments(ends(*one), ends(*other))
    for found, places in ((first, one), (second, other)):
        inside = found[found >= 0]
        assert (np.diff(inside) >= 0).all()
        assert all(end > max({*one} & {*other}, default=0) for end, n in zip(places, found, strict=True) if n < 0)
    assert {*first[first >= 0]} == {*second[second >= 0]} == set(range(len({*one} & {*other})))


def test_the_loss_of_two_texts_by_hand_and_in_parts():
    """The means of the student's states: [2, 0] of two tokens in one segment, [0, 4]; and [1, 1]."""
    ids = [np.arange(4, dtype=np.int32), np.arange(2, dtype=np.int32)]
    owners = [ends(-1, 0, 0, 1), ends(0, -1)]
    means = [np.array([[1, 0], [0, 2]], np.float32), np.array([[3, 1]], np.float32)]
    lesson = TokenLesson(ids, owners, means)
    hidden = torch.tensor([[9, 9], [1, 0], [3, 0], [0, 4], [1, 1], [9, 9]], dtype=torch.float32, requires_grad=True)
    whole = lesson.loss(hidden, [0, 1])
    assert float(whole.detach()) == pytest.approx((1 + 4 + 4) / (1 + 4 + 10))
    parts = lesson.loss(hidden[4:], [1]) + lesson.loss(hidden[:4], [0])
    assert float(parts.detach()) == pytest.approx(float(whole.detach()))
    whole.backward()
    assert hidden.grad[[0, 5]].abs().sum() == 0  # what is in no segment
    assert hidden.grad[1].tolist() == pytest.approx([2 * (2 - 1) / 2 / 15, 0])
