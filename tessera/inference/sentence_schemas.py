"""Schemas of the JSON files of a sentence-transformers folder, one a file."""

from typing import Any

from pydantic import ConfigDict, Field, RootModel

from tessera.json_files import Strictly

ENDLESS = 10**9  # a tokenizer without a limit names a number beyond this


class Module(Strictly):
    """One step of modules.json."""

    path: str = ""
    type: str


class Modules(RootModel[list[Module]]):
    """modules.json."""

    model_config = ConfigDict(strict=True)


class General(Strictly):
    """config_sentence_transformers.json."""

    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: str | None = None
    truncate_dim: int | None = Field(None, ge=1)


class TextConfig(Strictly):
    """sentence_bert_config.json."""

    max_seq_length: int | None = Field(None, ge=1, lt=ENDLESS)
    do_lower_case: bool | None = None
    transformer_task: str | None = None
    query_expansion: Any = None


class StepConfig(Strictly):
    """What config.json of a step after pooling says it works on."""

    module_input_name: str | None = None
    module_output_name: str | None = None


class DenseConfig(StepConfig):
    """config.json of a dense layer."""

    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    use_residual: bool | None = None


class PoolingConfig(Strictly):
    """config.json of pooling, beside a flag for each kind in older versions."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True


class TokenizerLimit(Strictly):
    """tokenizer_config.json."""

    model_max_length: int | float | None = None
