"""A recipe may name models of the Hugging Face Hub; where it is out of reach, the error says what to fetch."""

from pathlib import Path

import huggingface_hub
import pytest
import yaml
from small_encoder import write_model
from whole_run import write

from tessera.huggingface.hf_files import find_model
from tessera.plan.fields import hub_name
from tessera.plan.loading import load
from tessera.preflight import PreflightError
from tessera.report.overview import missing_paths
from tessera.run import run
from tessera.tokenizer.tokenizer import Tokenizer

RECIPE = {
    "name": "hub",
    "corpus": {"sources": [{"name": "web", "path": "text"}]},
    "tokenizer": {"path": "some/model@v1"},
    "phases": [
        {"name": "adapt", "from": "some/model@v1", "tokens": 1000, "context": 32, "batch_tokens": 100,
         "mask_ratio": 0.15, "learning_rate": {"peak": 1e-3}},
    ],
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path / "text" / "fao_Latn.jsonl", [{"text": f"og hús {n} við áina"} for n in range(40)])
    (tmp_path / "hub.yaml").write_text(yaml.safe_dump(RECIPE))
    write_model(tmp_path / "cache" / "snapshot")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_reads_model_and_tokenizer_of_the_hub_in_the_revision_that_is_named(here, monkeypatch):
    asked = []

    def online(name, revision, allow_patterns):
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        return str(here / "cache" / "snapshot" / "mmbert")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", online)
    run(load("hub.yaml"), "run", until="train")
    assert set(asked) == {("some/model", "v1")}
    assert Tokenizer.load("run/tokenizer").fingerprint == Tokenizer.load("cache/snapshot/mmbert").fingerprint
    assert (here / "run" / "adapt" / "final" / "config.json").is_file()


def test_without_a_network_the_error_says_what_to_fetch_and_nothing_is_written(here, monkeypatch):
    def offline(name, revision, allow_patterns):
        raise huggingface_hub.errors.LocalEntryNotFoundError("outgoing traffic has been disabled")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(PreflightError, match="hf download some/model --revision v1 --local-dir") as refused:
        run(load("hub.yaml"), "run")
    assert "phases.adapt.from: some/model: no folder here" in str(refused.value)
    assert "copy the folder, and give ./model" in str(refused.value)
    assert not (here / "run").exists()


def test_looking_at_a_recipe_asks_no_hub(here):
    said = missing_paths(load("hub.yaml"))
    assert [line for line in said if "a run looks for it on the Hugging Face Hub" in line] == said
    assert len(said) == 2


def test_a_folder_comes_before_the_hub_and_paths_are_none_of_its_names(here):
    (here / "some" / "model@v1").mkdir(parents=True)
    assert find_model("some/model@v1") == Path("some/model@v1")
    assert hub_name("jhu-clsp/mmBERT-small@abc") == ("jhu-clsp/mmBERT-small", "abc")
    for place in ("./model", "../model", "~/model", "/models/x", "runs/nano/final", "model", "a\\b"):
        assert hub_name(place) is None, place


def test_the_hub_is_not_asked_for_what_would_lie_in_a_folder_that_is_here(here, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    (here / "runs").mkdir()
    assert find_model("runs/mistyped") == Path("runs/mistyped")
