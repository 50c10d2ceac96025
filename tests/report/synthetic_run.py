"""A run folder as a real run would leave it, made in a moment: for the tests of the report and for looking at it."""

import json
import math
import random
from pathlib import Path
from typing import Any

LANGUAGES = tuple(
    """
    eng_Latn deu_Latn fra_Latn spa_Latn rus_Cyrl cmn_Hans jpn_Jpan ita_Latn por_Latn pol_Latn nld_Latn arb_Arab tur_Latn
    vie_Latn hin_Deva ces_Latn swe_Latn fin_Latn ell_Grek ukr_Cyrl kor_Hang ind_Latn hun_Latn ron_Latn heb_Hebr
    bel_Cyrl cat_Latn isl_Latn lat_Latn ltz_Latn mlt_Latn gla_Latn cym_Latn eus_Latn amh_Ethi khm_Khmr pan_Guru kat_Geor
    srp_Cyrl srp_Latn tgk_Cyrl jav_Latn epo_Latn yue_Hant mri_Latn
    fao_Latn tir_Ethi sme_Latn kal_Latn haw_Latn que_Latn nav_Latn chr_Cher sat_Olck bod_Tibt oci_Latn roh_Latn szl_Latn
    kab_Latn wol_Latn
    """.split()  # noqa: SIM905
)
COUNTS = {"pretrain": 25, "mid": 45, "decay-eng": 45, "decay-110": 45, "decay-all": 60}
PARENT = {"pretrain": "scratch", "mid": "pretrain", "decay-eng": "mid", "decay-110": "mid", "decay-all": "mid"}
TOKENS = {"pretrain": 400_000_000, "mid": 120_000_000, "decay-eng": 40_000_000, "decay-110": 40_000_000,
          "decay-all": 40_000_000}  # fmt: skip
TEMPERATURE = {"pretrain": 0.7, "mid": 0.5, "decay-eng": 0.3, "decay-110": 0.3, "decay-all": 0.3}
MASK = {"pretrain": 0.3, "mid": 0.15, "decay-eng": 0.05, "decay-110": 0.05, "decay-all": 0.05}
BATCH = 262_144


def write_run(folder: Path, *, notes: str = "Five phases and a merge, invented.", every: int = 1) -> Path:
    """Phases pretrain -> mid -> three decays, merged by TIES; 60 languages; two evaluation tasks. Deterministic.

    every   one line of metrics for so many steps, for quick tests
    """
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(_recipe(notes), encoding="utf-8")
    for phase in COUNTS:
        place = folder / phase
        (place / "checkpoint-9").mkdir(parents=True)
        (place / "final").symlink_to("checkpoint-9", target_is_directory=True)
        (place / "mixture.json").write_text(json.dumps(_mixture(phase)), encoding="utf-8")
        (place / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in _metrics(phase, every)), encoding="utf-8"
        )
    (folder / "merged" / "final").mkdir(parents=True)
    merge = {"method": "ties", "models": ["decay-eng", "decay-110", "decay-all"]}
    (folder / "merged" / "merge.json").write_text(json.dumps(merge), encoding="utf-8")
    (folder / "evaluation").mkdir()
    for model in [*COUNTS, "merged"]:
        for result in (_held_out(model), _bitext(model), _probe(model)):
            path = folder / "evaluation" / f"{model}.{result['task']}.json"
            path.write_text(json.dumps(result), encoding="utf-8")
    return folder


def available(rank: int) -> int:
    """Tokens of text at hand for the language of that rank."""
    return int(900_000_000 / (rank + 1) ** 1.9) + 20_000


def origin(phase: str) -> int:
    """Tokens before the first step of a phase."""
    parent = PARENT[phase]
    return 0 if parent == "scratch" else origin(parent) + TOKENS[parent]


def _recipe(notes: str) -> str:
    phases = "".join(
        f"""
  - name: {phase}
    from: {PARENT[phase]}
    tokens: {TOKENS[phase]}
    context: {1024 if phase == "pretrain" else 8192}
    batch_tokens: {BATCH}
    mask_ratio: {MASK[phase]}
    learning_rate: {{peak: 8e-4, warmup: {2_000_000 if phase == "pretrain" else 0}}}
    mixture: {{temperature: {TEMPERATURE[phase]}, languages: {{largest: {COUNTS[phase]}}}, shares: {{code: 0.05}}}}"""
        for phase in COUNTS
    )
    return f"""name: demo
notes: {json.dumps(notes)}
seed: 7
corpus:
  sources:
    - {{name: web, path: text/*.jsonl.zst}}
    - {{name: code, path: code.jsonl.zst, language: code}}
model: {{preset: mmbert-small}}
phases:{phases}
merges:
  - {{name: merged, method: ties, models: [decay-eng, decay-110, decay-all], base: mid}}
evaluation:
  tasks:
    - {{task: bitext, name: tatoeba, path: bitext/*.jsonl.zst}}
    - {{task: probe, name: sib200, train: "sib200/{{language}}/train.jsonl", test: "sib200/{{language}}/test.jsonl"}}
"""


def _mixture(phase: str) -> dict[str, Any]:
    rng = random.Random(phase)
    weights = [available(rank) ** TEMPERATURE[phase] for rank in range(COUNTS[phase])]
    buckets = []
    for rank, weight in enumerate(weights):
        share = 0.95 * weight / sum(weights)
        buckets.append(_bucket("web", LANGUAGES[rank], available(rank), share, phase, rng))
    buckets.append(_bucket("code", "code", 60_000_000, 0.05, phase, rng))
    return {"temperature": TEMPERATURE[phase], "buckets": buckets}


def _bucket(source: str, language: str, tokens: int, share: float, phase: str, rng: random.Random) -> dict[str, Any]:
    planned = share * TOKENS[phase]
    return {
        "key": f"{source}/{language}",
        "source": source,
        "language": language,
        "tokens_available": tokens,
        "share_planned": share,
        "tokens_planned": planned,
        "epochs": planned / tokens,
        "share_read": share * (1 + rng.gauss(0, 0.3) / math.sqrt(1 + planned / 40_000)),
    }


def _metrics(phase: str, every: int) -> list[dict[str, Any]]:
    rng, rows, clock, read = random.Random(phase), [], 1_790_000_000.0, 0
    steps = TOKENS[phase] // BATCH
    for step in range(1, steps + 1):
        tokens = step * BATCH
        batch = min(BATCH, 65_536 + int(BATCH * tokens / 30_000_000)) if phase == "pretrain" else BATCH
        speed = 41_000 * (1 if phase == "pretrain" else 0.83) * (1 + 0.04 * rng.gauss(0, 1))
        read += batch
        clock += batch / speed
        total = origin(phase) + tokens
        progress = tokens / TOKENS[phase]
        peak = 8e-4 * min(1.0, total / 2_000_000)
        rate = peak if phase in ("pretrain", "mid") else 8e-4 * (1 - 0.98 * math.sqrt(progress))
        loss = 1.9 + 8.6 * (1 + total / 3_000_000) ** -0.62 - 0.5 * (0.3 - MASK[phase]) / 0.25 + rng.gauss(0, 0.05)
        loss -= 0.25 * math.sqrt(progress) if phase.startswith("decay") else 0
        if step % every == 0 or step == steps:
            rows.append(
                {"kind": "step", "step": step, "tokens": tokens, "tokens_read": read, "total_tokens": total,
                 "loss": loss, "learning_rate": rate, "mask_ratio": MASK[phase], "batch_tokens": batch,
                 "gradient_norm": 0.4, "tokens_per_second": speed, "epoch_seconds": clock, "documents": 1500}
            )  # fmt: skip
        if step % max(1, steps // 12) == 0:
            rows.append(
                {"kind": "held_out", "step": step, "tokens": tokens, "total_tokens": total,
                 "languages": {code: {"bits_per_byte": _bits(phase, rank, progress), "loss": 2.0}
                               for rank, code in enumerate([*LANGUAGES, "code"])}}
            )  # fmt: skip
    return rows


def _bits(phase: str, rank: int, progress: float) -> float:
    """Languages fall once they are read, the rarer the less; later phases begin where their parent ended."""
    value = 3.1 + 0.006 * (rank % 9)
    chain, place = [phase], phase
    while PARENT[place] != "scratch":
        place = PARENT[place]
        chain.insert(0, place)
    for stage in chain:
        part = progress if stage == phase else 1.0
        strength = 0.42 if rank < COUNTS[stage] else 0.08
        value -= (
            strength * (1.6 - rank / 60) * math.log1p(8 * part) / math.log(9) * (1.4 if stage == "pretrain" else 0.7)
        )
        value -= 0.05 * part if stage == "decay-eng" and rank == 0 else 0
    return max(value, 0.55 + 0.01 * (rank % 7))


def _of_model(model: str, rank: int) -> float:
    if model != "merged":
        return _bits(model, rank, 1.0)
    return sum(_bits(m, rank, 1.0) for m in ("decay-eng", "decay-110", "decay-all")) / 3 - 0.02


def _result(
    model: str, task: str, kind: str, protocol: dict[str, Any], results: dict[str, dict[str, float]]
) -> dict[str, Any]:
    metrics = next(iter(results.values()))
    average = {m: sum(row[m] for row in results.values()) / len(results) for m in metrics}
    return {"model": model, "task": task, "kind": kind, "protocol": protocol, "seed": 7, "results": results,
            "average": average, "tessera": "0.1.0"}  # fmt: skip


def _held_out(model: str) -> dict[str, Any]:
    rows = {code: {"bits_per_byte": _of_model(model, rank)} for rank, code in enumerate([*LANGUAGES, "code"])}
    return _result(model, "held_out", "held_out", {"mask_ratio": 0.15}, rows)


def _bitext(model: str) -> dict[str, Any]:
    rows = {}
    for rank, code in enumerate(LANGUAGES[1:], 1):
        accuracy = 1 / (1 + math.exp(4.5 * (_of_model(model, rank) - 1.9)))
        rows[f"{code}-eng_Latn"] = {"accuracy": accuracy, "margin_f1": min(1.0, accuracy * 1.06 + 0.01)}
    return _result(model, "tatoeba", "bitext", {"pooling": "mean", "margin_neighbours": 4, "layer": "last"}, rows)


def _probe(model: str) -> dict[str, Any]:
    rows = {}
    for rank, code in enumerate(LANGUAGES):
        accuracy = 0.2 + 0.65 / (1 + math.exp(2.5 * (_of_model(model, rank) - 2.1)))
        rows[code] = {"accuracy": accuracy, "macro_f1": accuracy - 0.02}
    return _result(model, "sib200", "probe", {"C": 1.0, "max_iter": 1000, "pooling": "mean"}, rows)
