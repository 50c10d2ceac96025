"""The model card, README.md of a model folder: what it was made of, for people and for the Hugging Face Hub."""

import yaml

from tessera.huggingface.transformers_model import TransformersConfig
from tessera.plan.architecture import EncoderConfig, parameters
from tessera.plan.fields import show_tokens
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe


def card(recipe: Recipe, stage: str, config: EncoderConfig | TransformersConfig, made: str) -> str:
    """A model card with the front matter that the Hub reads.

    stage   the phase or merge the model is of
    made    one sentence: the tokens that were read up to here, or how it was merged and of what
    """
    front = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["tessera", "multilingual", "encoder", recipe.name],
    }
    weights = config.parameters if isinstance(config, TransformersConfig) else parameters(config)["total"]
    what = (
        f"A bidirectional text encoder of {weights / 1e6:.1f}M parameters ({config.num_hidden_layers} layers, "
        f"hidden size {config.hidden_size}, vocabulary {config.vocab_size}), "
        "trained by masked language modelling with tessera."
    )
    notes = f"{recipe.notes.strip()}\n\n" if recipe.notes else ""
    phases = "\n".join(map(_row, recipe.phases))
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---
# {recipe.name}, {stage}

{what}

{notes}{made}

| phase | from | tokens | context | mask | learning rate | temperature |
|---|---|---|---|---|---|---|
{phases}

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("<this folder>")
model = AutoModelForMaskedLM.from_pretrained("<this folder>")
```
"""


def _row(phase: Phase) -> str:
    return (
        f"| {phase.name} | {phase.from_} | {show_tokens(phase.tokens)} | {phase.context} | {phase.predicted:g} "
        f"| {phase.learning_rate.peak:g} | {phase.mixture.temperature:g} |"
    )
