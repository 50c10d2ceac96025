"""LoRA: what comes out is an ordinary folder, or an adapter that peft loads on the base with the same logits."""

import learnable
import pytest
import torch
import transformers
from learnable import THINGS
from safetensors.torch import load_file, save_file
from task_folders import CALM, LABELS, bert

from tessera import checksums
from tessera.files import write_json
from tessera.finetune import adapter_folder, lora, saved
from tessera.finetune.adapter_folder import CONFIG, WEIGHTS, merge_adapter
from tessera.finetune.learner import embedding, pretrained
from tessera.finetune.loop import predict
from tessera.huggingface import hub, transformers_model
from tessera.json_files import read_json
from tessera.prediction.features import KINDS
from tessera.prediction.predictor import Predictor

HOW = learnable.protocol(steps=4)
FAMILIES = ("mmbert-small", "eurobert-210m", "bert")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    ours = {family: learnable.model(place, family) for family in ("mmbert-small", "eurobert-210m")}
    return {**ours, "bert": bert(place / "bert")}


def trained(folders, family, kind):
    start = pretrained(folders[family], CALM)
    learner = start.learner(kind, len(LABELS[kind]), HOW, seed=0)
    _, adapter = lora.train_lora(learner, learnable.examples(kind, 40, 0), HOW, rate=2e-2, seed=0, rank=4)
    return start, learner, adapter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_merged_into_its_base_is_the_model_that_was_trained(family, kind, folders, tmp_path):
    start, learner, adapter = trained(folders, family, kind)
    assert all(not torch.equal(b, torch.zeros_like(b)) for _, b in adapter.parts.values())
    assert embedding(start.encoder).weight.requires_grad
    others = learnable.examples(kind, 8, 1)
    due = predict(learner, others)
    labels = list(LABELS[kind])
    adapter_folder.save(learner, adapter, folders[family], tmp_path / "adapter", others, labels=labels)
    again = predict(learner, others)
    assert again == (pytest.approx(due) if kind == "regress" else due)  # its scale is in the weights now
    saved.save(learner, folders[family], tmp_path / "whole", others, labels=labels)
    merged = merge_adapter(folders[family], tmp_path / "adapter", tmp_path / "merged")
    whole, again = (hub.load_task(place).state_dict() for place in (tmp_path / "whole", merged))
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-6)
    assert Predictor.from_pretrained(merged).labels == Predictor.from_pretrained(tmp_path / "whole").labels


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_peft_loads_the_adapter_on_the_base_with_equal_logits(family, kind, folders, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    _, learner, adapter = trained(folders, family, kind)
    examples = learnable.examples(kind, 8, 1)
    adapter_folder.save(learner, adapter, folders[family], tmp_path / "adapter", examples, labels=LABELS[kind])
    merged = merge_adapter(folders[family], tmp_path / "adapter", tmp_path / "merged")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "adapter")
    theirs = getattr(transformers, config.architectures[0])
    with transformers_model.quietly():
        base = theirs.from_pretrained(folders[family], config=config)
        found = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        due = theirs.from_pretrained(merged).eval()
    ids = torch.randint(5, 15, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(found(input_ids=ids).logits, due(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "whole"), [("mmbert-small", None), ("eurobert-210m", ["dense"]), ("bert", ["pooler"])]
)
def test_an_adapter_of_peft_is_merged_as_peft_merges_it(family, whole, folders, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    with transformers_model.quietly():
        base = transformers.AutoModelForSequenceClassification.from_pretrained(folders[family], num_labels=3)
        how = peft.LoraConfig(
            task_type="SEQ_CLS", r=3, lora_alpha=5, use_rslora=True, target_modules="all-linear",
            modules_to_save=whole, init_lora_weights=False,
        )  # fmt: skip
        made = peft.get_peft_model(base, how)
        made.save_pretrained(tmp_path / "adapter")
        due = made.merge_and_unload().state_dict()
    merged = merge_adapter(folders[family], tmp_path / "adapter", tmp_path / "merged")
    with transformers_model.quietly():
        found = transformers.AutoModelForSequenceClassification.from_pretrained(merged).state_dict()
    for name, value in due.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)


def test_an_adapter_without_the_head_it_was_trained_with_is_refused(folders, tmp_path):
    _, learner, adapter = trained(folders, "eurobert-210m", "classify")
    examples = learnable.examples("classify", 8, 1)
    adapter_folder.save(learner, adapter, folders["eurobert-210m"], tmp_path / "adapter", examples, labels=THINGS)
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    (tmp_path / "adapter" / checksums.MANIFEST).unlink()
    save_file({k: v for k, v in weights.items() if ".dense." not in k}, tmp_path / "adapter" / WEIGHTS)
    with pytest.raises(ValueError, match=r"dense.bias is neither in the base model nor in the adapter \(2 in all\)"):
        merge_adapter(folders["eurobert-210m"], tmp_path / "adapter", tmp_path / "out")


def test_training_is_the_same_every_time_and_freezes_what_is_not_adapted(folders):
    start, first, _ = trained(folders, "mmbert-small", "classify")
    _, second, _ = trained(folders, "mmbert-small", "classify")
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(value, second.encoder.state_dict()[name])
        adapted = name.endswith(("qkv.weight", "output.weight", "gate_up.weight", "down.weight"))
        assert torch.equal(value, start.encoder.state_dict()[name]) != adapted, name


def test_what_cannot_be_merged_is_said_before_anything_is_written(folders, tmp_path):
    _, learner, adapter = trained(folders, "mmbert-small", "classify")
    place = tmp_path / "adapter"
    adapter_folder.save(
        learner, adapter, folders["mmbert-small"], place, learnable.examples("classify", 8, 1), labels=THINGS
    )
    (place / checksums.MANIFEST).unlink()
    said, weights = read_json(place / CONFIG), load_file(place / WEIGHTS)
    for changes, text in (
        ({"peft_type": "IA3"}, r"adapter_config.json: .*peft_type"),
        ({"use_dora": True}, r"adapter_config.json: .*use_dora"),
        ({"r": 0}, r"adapter_config.json: .*r"),
        ({"rank_pattern": {"x": 3}}, r"adapter_config.json: .*rank_pattern"),
    ):
        write_json(place / CONFIG, {**said, **changes})
        with pytest.raises(ValueError, match=text):
            merge_adapter(folders["mmbert-small"], place, tmp_path / "out")
    write_json(place / CONFIG, said)
    save_file({**weights, "base_model.model.model.layers.9.x.weight": torch.zeros(1)}, place / WEIGHTS)
    with pytest.raises(ValueError, match=r"'model.layers.9.x.weight' has no place in ModernBertForSequenceClassif"):
        merge_adapter(folders["mmbert-small"], place, tmp_path / "out")
    (place / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"adapter_model.safetensors is broken"):
        merge_adapter(folders["mmbert-small"], place, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="rank is 0"):
        lora.train_lora(learner, [], HOW, rate=1e-3, seed=0, rank=0)


def test_an_adapter_of_another_vocabulary_is_refused(folders, tmp_path):
    _, learner, adapter = trained(folders, "bert", "classify")
    examples = learnable.examples("classify", 4, 1)
    adapter_folder.save(learner, adapter, folders["bert"], tmp_path / "adapter", examples, labels=LABELS["classify"])
    place = tmp_path / "adapter" / "tokenizer.json"
    tokenizer = read_json(place)
    ids = tokenizer["model"]["vocab"]
    first, second = sorted(ids, key=ids.__getitem__)[-2:]
    ids[first], ids[second] = ids[second], ids[first]
    write_json(place, tokenizer)
    with pytest.raises(checksums.Damaged, match=r"tokenizer\.json: has \d+ bytes, \d+ were written"):
        merge_adapter(folders["bert"], tmp_path / "adapter", tmp_path / "merged")
    checksums.seal(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"differ: .* \(2 tokens in all\); give the base of its training"):
        merge_adapter(folders["bert"], tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
