"""Other families with the head of a task: loaded through transformers, or a new head of transformers' own drawn.

Their heads differ (BERT's pooler, XLM-R's dense layer, DeBERTa's dropout), so each is that of its own class: what is
trained here is what the class of transformers computes when it loads the folder.
"""

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from tessera.huggingface import transformers_folder as folders
from tessera.huggingface.hf_files import config_json, is_finite, open_weights
from tessera.huggingface.task_heads import TransformersHead, initialize
from tessera.huggingface.transformers_model import TransformersEncoder, quietly
from tessera.model.task_config import TaskConfig, class_suffix, their_fields


def load_with_head(folder: Path, attention: str, suffix: str) -> tuple[Any, TransformersEncoder]:
    """transformers' model of a folder, and its encoder behind our interface; both in float32.

    suffix  the end of its class, as ForSequenceClassification
    Raises ValueError naming the file and the weight that is missing or broken, as `transformers_folder.load`.
    """
    auto, place = _auto(suffix), folder / "config.json"
    how = {} if attention == "auto" else {"attn_implementation": "eager"}
    with ExitStack() as files:
        found = open_weights(folder, files)
        folders.check_sizes(found, config_json(folder), auto, folder)
        with folders.retold(place), quietly():
            model, told = auto.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                output_loading_info=True, **how,
            )  # fmt: skip
        if not all(is_finite(values) for values in model.state_dict().values() if values.is_floating_point()):
            raise ValueError(f"{folder}: {type(model).__name__} of transformers has weights that are not finite")
    if missing := sorted(told["missing_keys"]):
        raise ValueError(
            f"{folder}: weight {missing[0]:.200} is missing ({len(missing)} in all), so its head is not whole"
        )
    encoder = TransformersEncoder(model.base_model, folders.describe(model.base_model))
    folders.prove(encoder, folder)
    return model, encoder


def new_head(encoder: TransformersEncoder, task: TaskConfig, generator: torch.Generator) -> TransformersHead | None:
    """A head of transformers' own over an encoder, drawn by `generator`; None where the family has no such class."""
    auto = _auto(class_suffix(task.kind, ""))
    config = copy.deepcopy(encoder.model.config)
    config.num_labels = task.outputs
    for key, value in their_fields(task, config.model_type).items():
        setattr(config, key, {int(n): name for n, name in value.items()} if key == "id2label" else value)
    if type(config) not in auto._model_mapping:
        return None
    with quietly(), torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=False)
    had = getattr(encoder.model, "pooler", None) is not None
    device = next(encoder.parameters()).device
    parts = [part for name, part in model.named_children() if name != model.base_model_prefix]
    if not had and getattr(model.base_model, "pooler", None) is not None:
        parts.append(model.base_model.pooler)
    for part in parts:
        part.to_empty(device=device)
        initialize(part, encoder.config, generator)
    return TransformersHead(model, encoder).to(device)


def _auto(suffix: str) -> Any:
    import transformers

    return getattr(transformers, f"AutoModel{suffix}")
