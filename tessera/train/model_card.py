"""The README.md of a model folder: what it was made of, for people and for the Hugging Face Hub."""

import yaml

from tessera.model.transformers_model import TransformersConfig
from tessera.plan.architecture import EncoderConfig, parameters
from tessera.plan.fields import show_tokens
from tessera.plan.recipe import Phase, Recipe


def card(
    recipe: Recipe, stage: str, config: EncoderConfig | TransformersConfig, total_tokens: int | None, merge: str = ""
) -> str:
    """A model card with the front matter that the Hub reads.

    stage         the phase or merge the model is of
    total_tokens  planned tokens read up to here, or None for a merge
    merge         for a merge: one sentence on how and of what
    """
    front = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["tessera", "multilingual", "encoder", recipe.name],
    }
    weights = config.parameters if isinstance(config, TransformersConfig) else parameters(config)["total"]
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {recipe.name}, {stage}",
        "",
        f"A bidirectional text encoder of {weights / 1e6:.1f}M parameters ({config.num_hidden_layers} layers, "
        f"hidden size {config.hidden_size}, vocabulary {config.vocab_size}), "
        "trained by masked language modelling with tessera.",
        "",
    ]
    if recipe.notes:
        lines += [recipe.notes.strip(), ""]
    if merge:
        lines += [merge, ""]
    if total_tokens is not None:
        lines += [f"Tokens read from the first phase to this checkpoint: {show_tokens(total_tokens)}.", ""]
    lines += [
        "| phase | from | tokens | context | mask | learning rate | temperature |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(phase) for phase in recipe.phases]
    lines += [
        "",
        "```python",
        "from transformers import AutoModelForMaskedLM, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
        'model = AutoModelForMaskedLM.from_pretrained("<this folder>")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _row(phase: Phase) -> str:
    return (
        f"| {phase.name} | {phase.from_} | {show_tokens(phase.tokens)} | {phase.context} | {phase.mask_ratio:g} "
        f"| {phase.learning_rate.peak:g} | {phase.mixture.temperature:g} |"
    )
