"""Service and worker by themselves: full, late, gone, broken; no server, no real model."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
import torch
from fastapi import Request

from tessera.batching.metrics import Metrics
from tessera.batching.reading import Read, together
from tessera.batching.refusals import Refused
from tessera.batching.service import Gone, Limits, Service
from tessera.batching.token_queue import Job, Piece, TokenQueue
from tessera.batching.worker import Trunk, Worker
from tessera.serve.call import Call


class Sums(torch.nn.Module):
    """Each token's state is its id; a document with a 13 in it cannot be computed."""

    def __init__(self):
        super().__init__()
        self.passes = []

    def forward(self, tokens, starts):
        self.passes.append(tokens.tolist())
        if 13 in tokens:
            raise RuntimeError("unlucky, as /home/somebody/secret knows")
        return tokens.float()[:, None]


class Total:
    """The sum of each document's states; a 99 makes it infinite."""

    def __init__(self, times=1):
        self.times = times

    def finish(self, hidden, starts, asked):
        edges = starts.tolist()
        rows = [hidden[a:b].numpy().sum(keepdims=True) * self.times for a, b in pairwise(edges)]
        return [row * np.inf if 99 in hidden[a:b] else row for row, (a, b) in zip(rows, pairwise(edges), strict=True)]


def trunk():
    return Trunk(Sums(), torch.device("cpu"), torch.float32)


def read(on, *texts, heads=(Total(),)):
    pieces = [
        Piece(trunk=on, documents=(np.array(text, np.int32),), heads=tuple((head, None) for head in heads))
        for text in texts
    ]
    return Read(tuple(pieces))


def computed(*jobs, budget=1000):
    """The results of jobs that were there before the worker began: so all may share a batch."""
    queue = TokenQueue(budget, 10**6)
    for one in jobs:
        queue.put(one)
    queue.close()
    worker = Worker(queue, lambda ran: None)
    worker.start()
    worker.join(60)
    assert queue.tokens == 0
    return [one.failure or [[row.item() for row in rows] for rows in one.results] for one in jobs]


def job(client, what):
    return Job(client, what.pieces, lambda _: None)


def test_texts_of_several_requests_share_a_forward_pass_and_get_their_own_results():
    on = trunk()
    assert computed(job("a", read(on, [1, 2], [3])), job("b", read(on, [4, 5, 6]))) == [[[3.0], [3.0]], [[15.0]]]
    assert len(on.model.passes) == 1
    assert on.model.passes[0][:3] == [4, 5, 6]  # the longest first


def test_heads_of_one_trunk_share_a_forward_pass_and_each_text_is_computed_once():
    on = trunk()
    one, ten = Total(), Total(10)
    whole, places = together([read(on, [1, 2], [3], heads=(one,)), read(on, [1, 2], [3], heads=(ten,))])
    assert whole.tokens == 3
    assert places == [[(0, 0), (1, 0)], [(0, 1), (1, 1)]]
    assert computed(job("a", whole)) == [[[3.0, 30.0], [3.0, 30.0]]]
    assert on.model.passes == [[1, 2, 3]]


def test_heads_that_are_asked_for_some_of_a_batch_see_only_that():
    on = trunk()
    one, ten = read(on, [1], [2, 2], heads=(Total(),)), read(on, [3, 3, 3], [4], heads=(Total(10),))
    assert computed(job("a", one), job("b", ten)) == [[[1.0], [4.0]], [[90.0], [40.0]]]
    assert len(on.model.passes) == 1


def test_a_request_that_cannot_be_computed_fails_alone_and_says_nothing_of_why():
    on = trunk()
    good, bad = computed(job("a", read(on, [1, 2])), job("b", read(on, [13], [1])))
    assert good == [[3.0]]
    assert (bad.kind, "secret" in bad.message) == ("failed", False)


def test_what_is_not_finite_is_an_error_of_its_own_request():
    on = trunk()
    good, bad = computed(job("a", read(on, [1, 2])), job("b", read(on, [99])))
    assert good == [[3.0]]
    assert "not finite" in bad.message


def test_networks_take_turns():
    first, second = trunk(), trunk()
    jobs = [job(str(n), read(on, [n])) for n, on in enumerate([first, second, first, second])]
    assert computed(*jobs) == [[[0.0]], [[1.0]], [[2.0]], [[3.0]]]
    assert [len(first.model.passes), len(second.model.passes)] == [1, 1]


# ------------------------------------------------------------------------------------------------ asked from a loop


async def never():
    await asyncio.Event().wait()


async def at_once():
    return


def ask(service, what, gone=never):
    return asyncio.run(service.ask(what, client="c", gone=gone))


def test_a_full_queue_refuses_with_the_time_that_it_needs():
    service = Service(Limits(queue_tokens=10), Metrics())
    service.queue.put(job("a", read(trunk(), [1] * 8)))
    with pytest.raises(Refused, match="8 tokens wait already") as caught:
        ask(service, read(trunk(), [1] * 3))
    assert (caught.value.kind, caught.value.retry_after, caught.value.status("tei")) == ("overloaded", 1, 429)


def test_what_is_not_answered_in_time_is_given_up_and_frees_its_place():
    service = Service(Limits(answer_seconds=0.01), Metrics())
    with pytest.raises(Refused, match=r"within 0\.01 seconds"):
        ask(service, read(trunk(), [1, 2]))
    assert service.queue.tokens == 0


def test_a_client_that_goes_away_frees_its_place():
    service = Service(Limits(), Metrics())
    with pytest.raises(Gone):
        ask(service, read(trunk(), [1, 2]), at_once)
    assert service.queue.tokens == 0


def test_a_request_that_is_cancelled_frees_its_place():
    service = Service(Limits(), Metrics())

    async def cancelled():
        task = asyncio.ensure_future(service.ask(read(trunk(), [1]), client="c", gone=never))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert service.queue.tokens == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert service.queue.tokens == 0


def call(service, messages):
    parts = iter(messages)

    async def receive():
        return next(parts, None) or await never()

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")], "client": ("h", 1)}
    return Call(Request(scope, receive), service)


def part(data, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


def test_a_body_that_does_not_come_is_not_waited_for():
    service = Service(Limits(read_seconds=0.01), Metrics())
    with pytest.raises(Refused) as caught:
        asyncio.run(call(service, [part(b"{")])._bytes())
    assert caught.value.status("openai") == 408


def test_bodies_together_hold_no_more_than_their_bound_and_give_it_back():
    service = Service(Limits(reading_bytes=10), Metrics())
    first = call(service, [part(b"12345678", more=False)])
    assert asyncio.run(first._bytes()) == b"12345678"
    second = call(service, [part(b"123", more=False)])
    with pytest.raises(Refused) as caught:
        asyncio.run(second._bytes())
    assert caught.value.status("tei") == 429
    for one in (first, second):
        one.release()
    assert service.bytes_held == 0


def test_a_client_that_goes_away_while_it_sends_is_no_error():
    with pytest.raises(Gone):
        asyncio.run(call(Service(Limits(), Metrics()), [part(b"{"), {"type": "http.disconnect"}])._bytes())


def test_limits_check_themselves():
    with pytest.raises(ValueError, match="batch_tokens is 0; give a number above 0"):
        Limits(batch_tokens=0)
