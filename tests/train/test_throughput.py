"""The figures of a step, worked out by hand."""

import json
import re

import numpy as np
import pytest
import torch
from going import ALONE, go, lines
from many import opened, together
from tiny_run import recipe

from tessera.data.packing import Batch
from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.train import throughput
from tessera.train.distributed import World, gathered
from tessera.train.throughput import Peak, ThroughputMeter, find_peak
from tessera.train.trainer import train

# One local layer (a token sees one on either side), one global: the first is global.
CONFIG = EncoderConfig.model_validate(
    {
        **PRESETS["mmbert-small"].model_dump(), "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2,
        "local_attention": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3,
    }
)  # fmt: skip


def batch(lengths: list[int], masked: int = 0) -> Batch:
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    return Batch(
        tokens=np.full(starts[-1], 5, np.int32), starts=starts, positions=np.arange(masked),
        targets=np.full(masked, 5, np.int32), sources=np.zeros(len(lengths), np.int32),
    )  # fmt: skip


def measured(lengths: list[int], sizes: list[int], *, masked: int = 0, planned: int = 10, spent=1.5, waited=0.5):
    return ThroughputMeter(CONFIG, Peak(flops=1e6, source=""), ALONE).step(
        batch(lengths, masked), planned, sizes, spent, waited
    )


def test_mfu_counts_the_pairs_that_see_each_other_and_the_head_where_something_is_masked():
    # A layer has 4 x (4 x 4 + 3 x 6) = 136 weights, so a token costs 2 x 2 x 136 = 544 in both.
    # Documents of 3 and 2 tokens: 9 + 4 pairs in the global layer, 7 + 4 in the local one (the first and the last of
    # three do not see each other); each pair costs 4 x 4 = 16.
    # The head costs 2 x 4 x (10 + 4) = 112 at each of 2 masked positions.
    forward = 5 * 544 + (13 + 11) * 16 + 2 * 112
    assert measured([3, 2], [5], masked=2)["mfu"] == pytest.approx(3 * forward / 2.0 / 1e6)
    assert measured([3, 0, 2], [5], masked=2)["mfu"] == measured([3, 2], [5], masked=2)["mfu"]


def test_a_step_takes_the_wait_for_its_batch_too():
    row = measured([6, 2], [8])
    assert row["tokens_per_second"] == 8 / 2.0
    assert (row["step_seconds"], row["data_wait_seconds"]) == (1.5, 0.5)


def test_filled_is_of_the_plan_and_packing_of_the_room():
    row = measured([6, 3, 2], [6, 5])  # two passes, the larger of six tokens: room for twelve
    assert row["filled"] == pytest.approx(1.1)
    assert row["packing"] == pytest.approx(11 / 12)
    assert measured([6, 6], [6, 6])["packing"] == 1.0
    assert measured([], [])["packing"] == 0.0  # nothing was read


def test_the_busiest_process_and_its_largest_pass_make_the_room(monkeypatch):
    monkeypatch.setattr(
        throughput, "gathered", lambda own, world: [own, [1, 4, 3e12]]
    )  # the other made one pass of four
    world = World(rank=0, size=2, device=ALONE.device)
    row = ThroughputMeter(CONFIG, Peak(flops=1e6, source=""), world).step(batch([6, 3, 4]), 13, [6, 3], 1.0, 0.0)
    assert row["packing"] == pytest.approx(13 / (2 * 2 * 6))
    assert row["peak_memory_bytes"] == 3e12


def test_what_is_shown_are_means_of_the_last_seconds_and_of_all(monkeypatch):
    clock = iter([0.0, 15.0, 30.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(throughput, "used_memory", lambda device: 3 * 2.0**30)
    of = ThroughputMeter(CONFIG, Peak(flops=1e9, source=""), ALONE)
    for tokens, spent in ((2_000_000, 1.0), (30, 1.0), (10, 3.0)):
        of.step(batch([tokens]), 10, [tokens], spent, 0.0)
    assert of.recent().startswith("10 tokens/s, MFU 0.0%, data wait 0%, packing ")  # (30 + 10) / (1 + 3)
    assert of.recent().endswith(", 3.0 GiB")
    assert of.summary().startswith("2,000,040 tokens in 3 steps and 5.0 s, 400,008 tokens/s, MFU ")
    assert throughput._rate(2_000_000) == "2.00M"


def test_on_a_cpu_the_peak_is_measured_once_and_said(monkeypatch):
    rates = iter([250e9])
    monkeypatch.setattr(throughput, "product_rate", lambda *_, **__: next(rates))
    throughput._measured.cache_clear()
    for _ in range(2):
        peak = find_peak(ALONE, torch.float32)
        assert (peak.flops, peak.source) == (250e9, "250 GFLOP/s, float32 matrix products as measured here just now")
    throughput._measured.cache_clear()


def test_on_a_gpu_the_peak_is_that_of_its_data_sheet_in_bfloat16_only(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(throughput, "gathered", lambda own, world: [own, own])
    monkeypatch.setattr(throughput, "_measured", lambda *_: 50e12)
    world = World(rank=0, size=2, device=torch.device("cuda", 0))
    peak = find_peak(world, torch.bfloat16)
    assert peak.flops == 2 * 989e12
    assert peak.source == "1.98 PFLOP/s (2 x 989 TFLOP/s), bfloat16 matrix products of h100, by its data sheet"
    assert find_peak(world, torch.float32).flops == 100e12


def test_the_best_product_is_no_slower_than_the_mean_and_draws_nobodys_numbers():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert throughput.product_rate(torch.device("cpu"), torch.float32, 0.05, best=True) > 1e8
    assert torch.equal(torch.random.get_rng_state(), before)


def test_memory_is_what_the_process_holds():
    assert 50e6 < throughput.used_memory(torch.device("cpu")) < 100e9


def test_a_run_says_what_mfu_is_of_logs_every_step_and_sums_up(tmp_path, text):
    said = go(tmp_path, text)
    assert any(
        re.fullmatch(r"first: MFU counts as a share of \d+ [GT]FLOP/s, float32 .* here just now", s) for s in said
    )
    assert re.fullmatch(r"first: [\d,]+ tokens in 6 steps and [\d.]+ s, [\d,]+ tokens/s, MFU .*%, .* GiB", said[-1])
    rows = lines(tmp_path)
    assert said[-1].startswith(f"first: {rows[-1]['tokens_read']:,} tokens in 6 steps")
    for row in rows:
        assert 0 < row["mfu"] < 1
        assert 0.5 < row["packing"] <= 1
        assert row["filled"] == pytest.approx(row["batch_tokens"] / 1_000)
        assert row["tokens_per_second"] == pytest.approx(
            row["batch_tokens"] / (row["step_seconds"] + row["data_wait_seconds"])
        )
        assert row["peak_memory_bytes"] > 50e6
    assert lines(tmp_path)[0]["packing"] == lines(tmp_path)[0]["batch_tokens"] / (4 * 300)  # 300 tokens fill a pass


def test_tensorboard_has_what_is_logged(tmp_path, text):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    go(tmp_path, text)
    events = EventAccumulator(str(tmp_path / "first"))
    events.Reload()
    assert {"loss", "tokens_per_second", "mfu", "packing", "data_wait_seconds", "peak_memory_bytes"} <= set(
        events.Tags()["scalars"]
    )
    assert [e.value for e in events.Scalars("mfu")] == pytest.approx([row["mfu"] for row in lines(tmp_path)])


def test_a_finished_phase_that_is_pointed_at_again_has_made_no_step(tmp_path, text):
    go(tmp_path, text)
    (tmp_path / "first" / "final").unlink()
    assert go(tmp_path, text)[-1] == "first: no step was left to make"


def two(world: World, folder, out) -> None:
    table = gathered([world.rank + 0.5, float("nan") if world.rank else 1.0], world)
    assert str(table) == "[[0.5, 1.0], [1.5, nan]]"
    train(recipe(), recipe().phases[0], out, opened(folder), world)


def test_two_processes_share_one_line_of_figures(tmp_path, text):
    assert together(2, two, text.tokenizer_folder.parent, tmp_path) == [0, 0]
    rows = lines(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:  # about 500 tokens for each process: two passes of at most 300
        assert row["packing"] == pytest.approx(row["batch_tokens"] / 4 / 300, rel=0.15)
    json.dumps(rows)
