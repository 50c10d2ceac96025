"""Models with the head of a task as folders: what is written is what transformers loads, for every kind and family."""

import pytest
import torch

from tessera.huggingface import hub, transformers_model, transformers_tasks
from tessera.huggingface.task_heads import TaskModel, initialize
from tessera.huggingface.transformers_folder import describe
from tessera.huggingface.transformers_model import TransformersEncoder
from tessera.model.task_config import TaskConfig, class_suffix, read_task

transformers = pytest.importorskip("transformers")

CLASSIFIER = ["XForSequenceClassification"]
LABELS = ("water", "bread", "sjúkrahús")
TASKS = [
    TaskConfig(kind="classify", labels=LABELS, pair=True),
    TaskConfig(kind="multilabel", labels=LABELS, thresholds=(0.5, 0.25, 0.75)),
    TaskConfig(kind="regress", labels=("score",)),
    TaskConfig(kind="rerank", labels=("score",), pair=True),
    TaskConfig(kind="tag", labels=("O", "B-PER", "I-PER"), labelling="majority"),
    TaskConfig(kind="span", stride=17, no_answer=True),
    TaskConfig(kind="choose"),
]
SHAPE = {
    "vocab_size": 97, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
FOREIGN = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SHAPE)),
    "bert without a pooler": lambda: transformers.BertModel(transformers.BertConfig(**SHAPE), add_pooling_layer=False),
    "xlm-r": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**{**SHAPE, "pad_token_id": 1})),
    "deberta": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(**SHAPE, relative_attention=True, pos_att_type=["c2p"])
    ),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(vocab_size=97, dim=24, n_layers=2, n_heads=4, hidden_dim=36, pad_token_id=0)
    ),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**SHAPE, embedding_size=24)),
}


def kinds(tasks):
    return [task.kind for task in tasks]


@torch.no_grad()
def logits_of(folder, tokens, starts):
    """What the class that config.json names makes of documents: [N, K], or [T, K] of tokens."""
    name = hub.config_json(folder)["architectures"][0]
    with transformers_model.quietly():
        model, told = getattr(transformers, name).from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, trust_remote_code=False
        )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    ids = torch.nn.utils.rnn.pad_sequence(list(tokens.tensor_split(starts[1:-1])), batch_first=True)
    mask = (torch.arange(ids.shape[1]) < starts.diff()[:, None]).long()
    given = {"input_ids": ids, "attention_mask": mask}
    if name.endswith("ForMultipleChoice"):
        return model.eval()(**{key: value[None] for key, value in given.items()}).logits[0][:, None]
    found = model.eval()(**given)
    if name.endswith("ForQuestionAnswering"):
        return torch.stack((found.start_logits, found.end_logits), -1)[mask.bool()]
    return found.logits[mask.bool()] if name.endswith("ForTokenClassification") else found.logits


@pytest.mark.parametrize("task", TASKS, ids=kinds(TASKS))
@pytest.mark.parametrize(("family", "pooling"), [("mmbert", "mean"), ("mmbert", "cls"), ("eurobert", "late")])
@torch.no_grad()
def test_transformers_loads_what_is_written_of_our_families(family, pooling, task, tiny, documents, tmp_path):
    torch.manual_seed(0)
    model = TaskModel.of(tiny(family), task, pooling, "reference").eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.1 if weight.ndim == 1 else 0.0, 0.2)
    hub.save(model, tmp_path / "a", card="# A card\n")
    tokens, starts = documents([7, 1, 12, 3])
    due = model(tokens, starts)
    torch.testing.assert_close(logits_of(tmp_path / "a", tokens, starts), due, rtol=1e-4, atol=1e-5)
    again = hub.load_task(tmp_path / "a", "reference").eval()
    assert again.task == task
    torch.testing.assert_close(again(tokens, starts), due, rtol=0, atol=0)
    hub.save(again, tmp_path / "b")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("task", TASKS, ids=kinds(TASKS))
@pytest.mark.parametrize("family", FOREIGN)
@torch.no_grad()
def test_other_families_are_written_with_the_head_of_their_own_class(family, task, documents, tmp_path):
    torch.manual_seed(0)
    base = FOREIGN[family]().eval()
    encoder = TransformersEncoder(base, describe(base))
    head = transformers_tasks.new_head(encoder, task, torch.Generator().manual_seed(0))
    model = TaskModel(encoder, head, task).eval()
    initialize(model, encoder.config, torch.Generator().manual_seed(1))
    hub.save(model, tmp_path / "a")
    assert hub.config_json(tmp_path / "a")["architectures"][0].endswith(class_suffix(task.kind, family))
    tokens, starts = documents([7, 2, 12, 3])
    due = model(tokens, starts)
    assert due.shape == ((24 if task.by_token else 4), task.outputs)
    torch.testing.assert_close(logits_of(tmp_path / "a", tokens, starts), due, rtol=1e-4, atol=1e-5)
    again = hub.load_task(tmp_path / "a").eval()
    assert again.task == task
    torch.testing.assert_close(again(tokens, starts), due, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "kind", "labels"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "classify", ("LABEL_0", "LABEL_1")),
        (
            {"architectures": CLASSIFIER, "num_labels": 3},
            "classify",
            ("LABEL_0", "LABEL_1", "LABEL_2"),
        ),
        ({"architectures": CLASSIFIER, "id2label": {"0": "score"}}, "regress", ("score",)),
        (
            {"architectures": ["X"], "task": {"kind": "rerank"}, "id2label": {"0": "score"}},
            "rerank",
            ("score",),
        ),
        (
            {
                "architectures": CLASSIFIER,
                "id2label": {"0": "LABEL_0"},
                "sentence_transformers": {},
            },
            "regress",
            ("LABEL_0",),
        ),
        (
            {
                "architectures": CLASSIFIER,
                "id2label": {"0": "LABEL_0"},
                "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
            },
            "rerank",
            ("LABEL_0",),
        ),
        (
            {"architectures": CLASSIFIER, "problem_type": "multi_label_classification"},
            "multilabel",
            ("LABEL_0", "LABEL_1"),
        ),
        ({"architectures": ["XForTokenClassification"], "id2label": {"1": "B", "0": "O"}}, "tag", ("O", "B")),
        ({"architectures": ["XForQuestionAnswering"]}, "span", ()),
        ({"architectures": ["XForMultipleChoice"]}, "choose", ()),
    ],
)
def test_folders_of_transformers_say_their_task(said, kind, labels, tmp_path):
    found = read_task(said, tmp_path / "config.json")
    assert (found.kind, found.labels) == (kind, labels)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"architectures": ["BertModel"]},
            "architectures is 'BertModel', which is no model with the head",
        ),
        ({"architectures": ["XForTokenClassification"], "id2label": {"0": "O", "2": "B"}}, "numbers from 0 on"),
        ({"architectures": ["XForTokenClassification"], "id2label": {"0": "O", "1": "O"}}, "no two may be the same"),
        ({"architectures": ["XForTokenClassification"], "num_labels": 1}, "at least two are needed"),
        ({"architectures": ["X"], "task": {"kind": "poem"}}, r"config\.json: .*kind"),
    ],
)
def test_a_config_that_cannot_be_is_named(said, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_task(said, tmp_path / "config.json")
