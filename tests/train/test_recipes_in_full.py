"""What the two recipes say, as numbers worked out by hand; those that no other test has.

mmBERT: arXiv:2509.06888 and its authors' configuration files; EuroBERT: arXiv:2503.05500, section 2.3 and table 4.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from going import changed, go, lines
from safetensors.torch import load_file
from torch import nn

from tessera.data.hashing import keys
from tessera.data.masking import mask
from tessera.model.attention import Layout, frequencies
from tessera.model.encoder import Block
from tessera.model.mlm import MaskedLM, initialize
from tessera.plan.fields import at
from tessera.plan.loading import load
from tessera.plan.phase import Optimizer, Phase
from tessera.plan.recipe import Recipe
from tessera.plan.schedule import boundary, learning_rate, learning_rate_at
from tessera.train.optimizer import build, clip_gradients

RECIPES = Path(__file__).parents[2] / "recipes"


def shipped(name: str) -> Recipe:
    return load(RECIPES / f"{name}.yaml")


def rate(phase: Phase, tokens: float) -> float:
    return learning_rate(phase.learning_rate, tokens, phase.tokens)


# -------------------------------------------------------------------------------------------------------------- mmBERT


def test_mmbert_base_grows_its_batch_from_384_to_4608_rows_over_60_billion_tokens():
    phase = shipped("mmbert-base").phase("pretrain")
    # Sizes rise evenly from S = 393,216 to 12 S, so their mean is 6.5 S and U = 60B / 6.5 S = 23,475.1 updates do it.
    updates = 60e9 / (6.5 * 393_216)
    assert updates == pytest.approx(23_475.06, abs=0.01)
    first, last = (boundary(phase, s + 1) - boundary(phase, s) for s in (0, 30_000))
    assert (first, last) == (pytest.approx(393_216, rel=1e-3), 4_718_592)
    assert boundary(phase, 23_476) == pytest.approx(60e9, rel=1e-3)
    # After half of the updates the mean size was (1 + 6.5) / 2 S = 3.75 S: 30 / 104 of the tokens.
    assert boundary(phase, 11_738) == pytest.approx(60e9 * 30 / 104, rel=1e-3)


def test_mmbert_base_warms_up_over_3_billion_tokens_stays_and_falls_by_one_minus_sqrt_to_a_fiftieth():
    plan = shipped("mmbert-base")
    first, middle, decay = (plan.phase(name) for name in ("pretrain", "mid", "decay-eng"))
    assert [rate(first, t) for t in (0, 1.5e9, 3e9, 2.3e12)] == pytest.approx([0, 4e-4, 8e-4, 8e-4])
    assert [rate(middle, t) for t in (0, 6e11)] == [8e-4, 8e-4]
    # 8e-4 x (0.02 + 0.98 x (1 - sqrt(p))) at p = 0, 1/100, 1/4, 1
    by_hand = [8e-4, 8e-4 * (0.02 + 0.98 * 0.9), 8e-4 * 0.51, 1.6e-5]
    assert [rate(decay, t) for t in (0, 1e9, 25e9, 100e9)] == pytest.approx(by_hand)


def test_mmbert_hides_less_from_phase_to_phase_in_steps_or_along_a_curve():
    phases = shipped("mmbert-base").phases
    assert [phase.mask_ratio for phase in phases if phase.name in ("pretrain", "mid", "decay-eng")] == [0.3, 0.15, 0.05]
    curve = changed(mask_ratio={"from": 0.3, "to": 0.05}).phases[0].mask_ratio
    assert [at(curve, moment) for moment in (0.0, 0.6, 1.0)] == pytest.approx([0.3, 0.15, 0.05])


def one_weight(settings: Optimizer) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.LayerNorm(1, bias=False))  # there is a norm in every model
    nn.init.zeros_(net[0].weight)
    net[1].weight.grad = torch.zeros(1)
    return net[0].weight, build(net, settings, peak=1e-3)


def test_two_steps_of_stableadamw_by_hand():
    # Betas (0.9, 0.95) without bias: in step t they are b (1 - b^(t-1)) / (1 - b^t), so 0 in the first step, and
    # 0.9 x 0.1 / 0.19 = 9/19 and 0.95 x 0.05 / 0.0975 = 19/39 in the second.
    weight, optimizer = one_weight(Optimizer(name="stableadamw", betas=(0.9, 0.95), eps=1e-12))
    for gradient in ([0.1, -0.1], [1.0, 0.5]):
        before = weight.detach().clone()
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    first = torch.tensor([[-1e-3, 1e-3]])  # g / |g|
    torch.testing.assert_close(before, first)
    m = [9 / 19 * g + 10 / 19 * h for g, h in ((0.1, 1.0), (-0.1, 0.5))]
    v = [19 / 39 * g * g + 20 / 39 * h * h for g, h in ((0.1, 1.0), (-0.1, 0.5))]
    # The update is divided by the root mean square of h / sqrt(v) where that is above 1; here it is 1.3803.
    spike = math.sqrt((1.0 / v[0] + 0.25 / v[1]) / 2)
    assert spike == pytest.approx(1.3803, abs=1e-4)
    moved = [-1e-3 / spike * a / math.sqrt(b) for a, b in zip(m, v, strict=True)]
    torch.testing.assert_close(weight.detach() - before, torch.tensor([moved]), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("name", ["adamw", "stableadamw", "muon"])
def test_norms_and_biases_of_a_whole_model_are_not_decayed_and_all_matrices_are(name):
    model = MaskedLM(changed().model.config(vocab_size=50))
    initialize(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.decoder_bias.fill_(3.0)
    before = {key: weight.detach().clone() for key, weight in model.named_parameters()}
    optimizer = build(model, Optimizer(name=name, weight_decay=0.0008, fully_decoupled=True), peak=1e-3)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # at the peak: all of 0.0008
    kept = {key for key, weight in model.named_parameters() if torch.equal(weight, before[key])}
    assert kept == {key for key in before if "norm" in key or key == "decoder_bias"}
    for key in before.keys() - kept:
        torch.testing.assert_close(model.get_parameter(key), (1 - 0.0008) * before[key], rtol=1e-6, atol=0)


def test_dropout_is_on_the_attentions_output_and_nowhere_else():
    config = changed().model.config(vocab_size=50, attention_output_dropout=0.5)
    block, starts = Block(config, 1), torch.tensor([0, 40])
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))

    def added(training: bool) -> torch.Tensor:
        block.train(training)
        torch.manual_seed(1)
        return block(x, Layout.of(starts, 40, "reference"), 10_000.0) - x

    nn.init.zeros_(block.mlp.down.weight)  # what is added is the attention's output alone
    times = added(True) / added(False)
    assert sorted({round(t, 2) for t in times.flatten().tolist()}) == [0.0, 2.0]  # dropped, or twice as large
    assert (times == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    nn.init.normal_(block.mlp.down.weight)
    nn.init.zeros_(block.attention.output.weight)
    assert torch.equal(added(True), added(False))


def test_theta_is_the_base_of_the_angles_of_global_and_local_layers():
    # Pair i of a head of width 8 turns by theta^(-i/4) a position: 10^-i, and 20^-i for 160,000 = 20^4.
    assert frequencies(10_000, 8).tolist() == pytest.approx([1, 0.1, 0.01, 0.001])
    assert frequencies(160_000, 8).tolist() == pytest.approx([1, 1 / 20, 1 / 400, 1 / 8_000])
    cos, sin = Layout.of(torch.tensor([0, 3]), 3, "reference").rotary(160_000, 8)
    assert cos[2, 0].tolist() == pytest.approx([math.cos(2 * 20**-i) for i in range(4)])
    assert sin[2, 0].tolist() == pytest.approx([math.sin(2 * 20**-i) for i in range(4)])
    plan = shipped("mmbert-base")
    moved = {
        phase.name: (phase.rope_theta.global_, phase.rope_theta.local) for phase in plan.phases if phase.rope_theta
    }
    assert moved["pretrain"] == (10_000, 10_000)
    assert all(thetas == (160_000, 160_000) for name, thetas in moved.items() if name != "pretrain")


# ------------------------------------------------------------------------------------------------------------ EuroBERT


def test_eurobert_warms_up_over_2000_steps_stays_and_falls_along_a_cosine_to_zero():
    plan = shipped("eurobert-210m")
    first, annealing = plan.phases
    warm = 2_000 * 9_437_184
    assert boundary(first, 2_000) == warm
    assert [rate(first, t) for t in (0, warm / 2, warm, 4.8e12)] == pytest.approx([0, 5e-5, 1e-4, 1e-4])
    # 1e-4 x (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 1
    by_hand = [1e-4, 1e-4 * (2 + math.sqrt(2)) / 4, 5e-5, 0]
    assert [rate(annealing, t) for t in (0, 50e9, 100e9, 200e9)] == pytest.approx(by_hand, abs=1e-12)
    assert learning_rate_at(first, 0) == pytest.approx(1e-4 / 4_000)  # the middle of the first of 2,000 steps


def test_eurobert_clips_the_whole_gradient_to_one():
    assert [phase.optimizer.clip_norm for phase in shipped("eurobert-210m").phases] == [1.0, 1.0]
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    for gradient, clipped in (([3.0, 4.0], [0.6, 0.8]), ([0.3, 0.4], [0.3, 0.4])):  # norms 5 and 0.5
        for layer, value in zip(net, gradient, strict=True):
            layer.weight.grad = torch.tensor([[value]])
        norm = clip_gradients(net.parameters(), 1.0)
        assert norm == pytest.approx(math.hypot(*gradient))
        assert [layer.weight.grad.item() for layer in net] == pytest.approx(clipped, rel=1e-5)


def test_two_steps_of_euroberts_adamw_by_hand():
    # m^ = (b1 (1 - b1) g + (1 - b1) h) / (1 - b1^2) = (0.09 g + 0.1 h) / 0.19, v^ = (0.0475 g2 + 0.05 h2) / 0.0975
    settings = [phase.optimizer for phase in shipped("eurobert-210m").phases]
    assert {(s.name, s.betas, s.eps, s.weight_decay) for s in settings} == {("adamw", (0.9, 0.95), 1e-5, 0.1)}
    weight, optimizer = one_weight(settings[0])
    for gradient in ([1e-5, 2e-5], [3e-5, -1e-5]):
        before = weight.detach().clone()
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    assert before[0].tolist() == pytest.approx([-1e-3 / 2, -1e-3 * 2 / 3], rel=1e-4)  # g / (|g| + 1e-5)
    moved = []
    for value, (g, h) in zip(before[0].tolist(), ((1e-5, 3e-5), (2e-5, -1e-5)), strict=True):
        m, v = (0.09 * g + 0.1 * h) / 0.19, (0.0475 * g * g + 0.05 * h * h) / 0.0975
        moved.append(-1e-3 * 0.1 * value - 1e-3 * m / (math.sqrt(v) + 1e-5))
    assert (weight.detach() - before)[0].tolist() == pytest.approx(moved, rel=1e-3)


@pytest.mark.parametrize(("phase", "ratio"), [(0, 0.5), (1, 0.1)])
def test_eurobert_puts_the_mask_token_wherever_it_hides(phase, ratio):
    plan = shipped("eurobert-210m").phases[phase]
    assert (plan.mask_ratio, plan.mask_replacement) == (ratio, "mask")
    tokens, starts = np.full(200_000, 9, np.int32), np.array([0, 200_000])
    inputs, positions, targets = mask(tokens, keys(0, np.arange(1)), starts, ratio, plan.mask_replacement, 3, [3], 50)
    assert len(positions) == pytest.approx(200_000 * ratio, rel=0.02)
    assert set(inputs[positions].tolist()) == {3}
    assert set(targets.tolist()) == {9}
    assert (np.delete(inputs, positions) == 9).all()


# --------------------------------------------------------------------------------------------------------------- both


def test_going_on_from_a_folder_warms_up_again_forgets_the_moments_and_replays_old_text_at_a_share(
    tmp_path, text, whole
):
    plan = changed(
        **{"from": str(whole / "first" / "final")},
        learning_rate={"peak": 1e-3, "warmup": 2_000},
        mixture={"languages": ["fao_Latn", "ell_Grek"], "temperature": 0.5, "shares": {"eng_Latn": 0.25}},
    )
    go(tmp_path, text, plan=plan)
    rows = lines(tmp_path)
    # The middles of the first steps lie at 500, 1,500 and 2,500 of 2,000 tokens.
    assert [row["learning_rate"] for row in rows[:3]] == pytest.approx([2.5e-4, 7.5e-4, 1e-3])
    assert rows[0]["total_tokens"] == rows[0]["tokens"] == 1_000  # a clock of its own
    assert rows[0]["loss"] < lines(whole)[0]["loss"] - 1
    mixture = json.loads((tmp_path / "first" / "mixture.json").read_text())["buckets"]
    planned = {row["language"]: row["share_planned"] for row in mixture}
    read = {row["language"]: row["share_read"] for row in mixture}
    assert planned["eng_Latn"] == pytest.approx(0.25)
    assert read["eng_Latn"] == pytest.approx(0.25, abs=0.04)
    moments = load_file(tmp_path / "first" / "final" / "training" / "optimizer.safetensors")
    assert {float(value) for name, value in moments.items() if "step" in name} == {6.0}  # not those of the folder too
