"""The fastest engine within bounds is written into the model's folder, and taken from there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoder import write_model

from tessera import checksums
from tessera.export import tune as tuning
from tessera.export.candidates import Candidate
from tessera.export.real_text import read_texts
from tessera.export.tune import tune
from tessera.files import write_text
from tessera.inference import tuned
from tessera.inference.encoder import Encoder
from tessera.packed.int8 import can_int8
from tessera.packed.products import can_pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch is built without oneDNN")
in_int8 = pytest.mark.skipif(not can_int8(), reason="this processor has no AVX512_VNNI")

WORDS = ["one", "two", "three", "tveir", "þrír", "fjórir", "text", "longer", "much", "a", "and"]


def texts(count: int = 90) -> list[tuple[str, str]]:
    random = np.random.default_rng(0)
    drawn = [" ".join(random.choice(WORDS, random.integers(2, 25))) for _ in range(count)]
    return [(text, ("eng_Latn", "isl_Latn")[n % 2]) for n, text in enumerate(drawn)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "mmbert")


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graphs, which take their time; and time by a list, so that no test depends on the machine."""

    def need(to: str, *more: str) -> None:
        raise ImportError(f"{to} is not installed")

    monkeypatch.setattr("tessera.export.candidates.need", need)


def timed(monkeypatch: pytest.MonkeyPatch, speeds: dict[str, float]) -> None:
    """Engines are as fast as is said of the beginning of their name, and faster the fewer threads they have."""

    def measured(engines: list[tuple[tuning.Tried, Candidate]], some: list[str], tokens: int) -> None:
        for found, _ in engines:
            speed = next(value for name, value in speeds.items() if found.name.startswith(name)) / found.threads
            found.tokens_per_second, found.milliseconds = speed, 1000 / speed

    monkeypatch.setattr(tuning, "_time", measured)


SPEEDS = {"packed weights, float32": 1.0, "packed weights, bfloat16": 2.0, "packed weights, int8": 3.0}


@in_int8
@pytest.mark.usefixtures("only_ours")
def test_the_fastest_is_written_and_taken_from_then_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, SPEEDS)
    before = Encoder.from_pretrained(folder, dtype="float32").encode(["one two", "þrír"])
    found = tune(folder, texts(), min_cosine=0.9, max_drop=100)
    assert found.chosen.name.startswith("packed weights, int8")
    assert {why.why_not for why in found.tried if why.name in ("OpenVINO", "ONNX Runtime")} == {
        "openvino is not installed",
        "onnx is not installed",
    }
    taken = Encoder.from_pretrained(folder)
    assert f"tuned for throughput: {found.chosen.name}" in str(taken)
    vectors = taken.encode(["one two", "þrír"])
    assert not np.array_equal(vectors, before)
    assert (vectors * before).sum(1).min() > 0.9
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.count("## Fastest engine") == 1
    tune(folder, texts(), min_cosine=0.9, max_drop=100)  # again: nothing is said twice
    assert (folder / "README.md").read_text(encoding="utf-8").count("## Fastest engine") == 1


@pytest.mark.usefixtures("only_ours")
def test_whoever_asks_for_a_number_format_gets_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, SPEEDS)
    tune(folder, texts(), min_cosine=0.9, max_drop=100)
    assert Encoder.from_pretrained(folder, dtype="float32").tuned is None
    assert Encoder.from_pretrained(folder, attention="reference").tuned is None


@pytest.mark.usefixtures("only_ours")
def test_what_falls_under_the_bound_is_never_chosen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, SPEEDS)
    found = tune(folder, texts(), min_cosine=1 - 1e-6, max_drop=100)
    assert found.chosen.name == "packed weights, float32"
    assert all(one.why_not.startswith("cosine 0.9") for one in found.tried if "float32" not in one.name and one.threads)
    assert set(found.chosen.by_language) == {"eng_Latn", "isl_Latn"}


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize(("ahead", "chosen"), [(1.04, "packed weights, float32"), (1.06, "packed weights, bfloat16")])
@pytest.mark.parametrize("goal", ["throughput", "latency"])
def test_an_engine_has_to_be_far_enough_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, chosen: str, goal: tuning.Goal
) -> None:
    monkeypatch.setattr("tessera.export.candidates.compute_dtype", lambda name, device: torch.bfloat16)
    timed(monkeypatch, {**SPEEDS, "packed weights, bfloat16": ahead, "packed weights, int8": 0.5})
    found = tune(folder, texts(), min_cosine=0.9, max_drop=100, goal=goal)
    assert found.chosen.name == chosen
    said = {one.name: one.why_not for one in found.tried}
    assert (said["packed weights, bfloat16"] == "4.0% ahead: too little to change for") is (ahead < 1.05)


@pytest.mark.usefixtures("only_ours")
def test_what_was_measured_elsewhere_is_left_aside_aloud(
    folder: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    timed(monkeypatch, SPEEDS)
    tune(folder, texts(), min_cosine=0.9, max_drop=100)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(tuned, "processor", lambda: "another")
        assert Encoder.from_pretrained(folder).tuned is None
    assert "was measured on another processor" in logged[-1]
    other = write_model(folder.parent / "other", "eurobert")
    shutil.copytree(folder / tuned.FOLDER, other / tuned.FOLDER)
    assert Encoder.from_pretrained(other).tuned is None
    assert "was measured with other weights" in logged[-1]


@pytest.mark.usefixtures("only_ours")
def test_a_damaged_choice_is_an_error_that_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, SPEEDS)
    checksums.seal(folder)  # as a checkpoint is
    tune(folder, texts(), min_cosine=0.9, max_drop=100)
    assert checksums.check_folder(folder)
    place = folder / tuned.FOLDER / tuned.CHOICE
    said = json.loads(place.read_text(encoding="utf-8"))
    write_text(place, json.dumps({**said, "threads": 7}))
    with pytest.raises(ValueError, match=r"choice\.json"):
        Encoder.from_pretrained(folder)
    del said["sha256"], said["engine"]
    write_text(place, json.dumps(said))
    for manifest in (folder / "manifest.json", folder / tuned.FOLDER / "manifest.json"):
        manifest.unlink()
    with pytest.raises(ValueError, match=r"choice\.json: .*engine.*; remove .*tuned, or run tessera tune again"):
        Encoder.from_pretrained(folder)


def test_too_few_texts_and_bounds_that_are_none_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="20 different texts; give 64 or more"):
        tune(folder, texts(20))
    with pytest.raises(ValueError, match=r"min_cosine is 1\.5"):
        tune(folder, texts(), min_cosine=1.5)


def test_texts_have_the_language_of_their_row_or_none(tmp_path: Path) -> None:
    rows = [{"text": "one two", "lang": "eng_Latn"}, {"text": "þrír", "lang": "isl_Latn"}]
    write_text(tmp_path / "texts.jsonl", "\n".join(map(json.dumps, rows)))
    assert sorted(read_texts(str(tmp_path / "texts.jsonl"))) == [("one two", "eng_Latn"), ("þrír", "isl_Latn")]
    write_text(tmp_path / "plain.jsonl", '{"text": "one"}')
    assert read_texts(str(tmp_path / "plain.jsonl")) == [("one", "und")]


@pytest.mark.usefixtures("only_ours")
def test_time_is_measured_in_turns_and_threads_are_given_back(folder: Path) -> None:
    threads = torch.get_num_threads()
    found = tune(folder, texts(70), min_cosine=0.9, max_drop=100, goal="latency")
    assert torch.get_num_threads() == threads
    assert all(0 < one.milliseconds < float("inf") and one.tokens_per_second > 0 for one in found.tried if one.threads)
    assert found.chosen.threads <= threads
