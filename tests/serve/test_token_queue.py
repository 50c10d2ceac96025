"""The queue of tokens: who is in which batch, drawn by hand; nothing is lost, nobody waits without a bound."""

import random
import threading

import numpy as np
import pytest

from tessera.batching.token_queue import Full, Job, Piece, TokenQueue


def job(client, *lengths, trunk="t", alone=False):
    pieces = [
        Piece(trunk=trunk, documents=(np.zeros(length, np.int32),), heads=(("head", None),), alone=alone)
        for length in lengths
    ]
    return Job(client, tuple(pieces), lambda _: None)


def shown(batch):
    """As `client:tokens` in the order of the batch."""
    return " ".join(f"{one.client}:{one.pieces[number].tokens}" for one, number in batch)


def batches(queue):
    found = []
    while queue.tokens:
        batch = queue.take()
        queue.done(batch)
        found.append(shown(batch))
    return found


def filled(*jobs, budget=100, most=10**6):
    queue = TokenQueue(budget, most)
    for one in jobs:
        queue.put(one)
    return queue


def test_a_batch_holds_texts_of_all_clients_up_to_its_budget():
    assert batches(filled(job("a", 40, 40, 40), job("b", 10), job("c", 20, 5))) == ["a:40 b:10 c:20 c:5", "a:40 a:40"]


def test_a_short_text_waits_for_no_more_than_one_long_one_however_many_there_are():
    long = [job(f"long{n}", 90, 90, 90) for n in range(10)]
    queue = filled(*long)
    assert shown(queue.take()) == "long0:90"
    queue.put(job("short", 5))
    assert "short:5" in shown(queue.take())


def test_short_texts_ride_beside_one_that_is_longer_than_the_budget():
    assert batches(filled(job("long", 500, 500), job("a", 30, 30), job("b", 50))) == [
        "long:500 a:30 b:50",
        "long:500 a:30",
    ]


def test_texts_of_a_client_are_computed_in_the_order_in_which_it_asked():
    first, second = job("a", 60, 60, 10), job("a", 10)
    assert batches(filled(first, second, job("b", 30))) == ["a:60 b:30", "a:60 a:10 a:10"]


def test_a_batch_is_of_one_network_and_the_others_are_next():
    assert batches(filled(job("a", 10, 10, trunk="x"), job("b", 10, trunk="y"), job("c", 10, trunk="x"))) == [
        "a:10 c:10 a:10",
        "b:10",
    ]


def test_what_is_asked_for_alone_is_computed_alone():
    assert batches(filled(job("a", 10, 10, alone=True), job("b", 10), job("c", 10))) == ["a:10", "b:10 c:10", "a:10"]


def test_a_full_queue_takes_nothing_more_until_something_is_computed():
    queue = filled(job("a", 50), most=80)
    with pytest.raises(Full):
        queue.put(job("b", 31))
    queue.put(job("b", 30))
    batch = queue.take()
    with pytest.raises(Full):  # what is at work still takes its place
        queue.put(job("c", 10))
    queue.done(batch)
    queue.put(job("c", 80))


def test_a_request_larger_than_the_queue_comes_in_where_it_is_alone():
    queue = TokenQueue(100, 80)
    queue.put(job("a", 90))
    assert batches(queue) == ["a:90"]


def test_a_client_that_goes_away_frees_its_place():
    gone, other = job("a", 80, 80), job("a", 5)
    queue = filled(gone, other, most=170)
    taken = queue.take()
    queue.drop(gone)
    assert queue.tokens == 85  # what is at work is finished, what waited is not
    queue.put(job("b", 60))
    queue.done(taken)
    assert batches(queue) == ["a:5 b:60"]


def test_a_closed_queue_gives_out_what_it_holds_and_then_ends():
    queue = filled(job("a", 10))
    queue.close()
    with pytest.raises(Full):
        queue.put(job("b", 1))
    assert shown(queue.take()) == "a:10"
    assert queue.take() is None


def test_who_waits_for_a_batch_is_woken_by_the_end():
    queue = TokenQueue(10, 10)
    found = []
    waiting = threading.Thread(target=lambda: found.append(queue.take()))
    waiting.start()
    queue.close()
    waiting.join(30)
    assert found == [None]


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_repeated_or_out_of_order_and_nobody_waits_longer_than_a_round(seed):
    rng = random.Random(seed)
    queue, jobs = TokenQueue(100, 10**9), []
    seen, waited, longest = [], {}, 0
    for step in range(400):
        for _ in range(rng.randint(0, 3)) if step < 100 else ():
            lengths = [rng.choice([1, 5, 20, 99, 300]) for _ in range(rng.randint(1, 5))]
            jobs.append(job(f"c{rng.randint(0, 5)}", *lengths, trunk=rng.choice("xy"), alone=rng.random() < 0.1))
            queue.put(jobs[-1])
        if not queue.tokens:
            continue
        before = list(queue._clients)
        batch = queue.take()
        queue.done(batch)
        seen += [(id(one), number) for one, number in batch]
        assert len({one.pieces[number].trunk for one, number in batch}) == 1
        rest = [one.pieces[number].tokens for one, number in batch[1:]]
        assert sum(rest) <= 100
        served = {one.client for one, _ in batch}
        waited = {client: 0 if client in served else waited.get(client, 0) + 1 for client in before}
        longest = max(longest, *waited.values())
    assert sorted(seen) == sorted((id(one), n) for one in jobs for n in range(len(one.pieces)))
    for client in range(6):
        mine = [(id(one), n) for one in jobs if one.client == f"c{client}" for n in range(len(one.pieces))]
        assert [placed for placed in seen if placed in set(mine)] == mine
    assert longest <= 6  # clients
