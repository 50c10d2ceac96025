"""Conversion of weight names and configuration fields to Hugging Face's and back: one table of each for a family."""

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, create_model

from tessera.json_files import Strictly, fit, shown
from tessera.plan.architecture import EncoderConfig

Json = dict[str, Any]
Names = dict[str, tuple[str, ...]]
Pooling = Literal["mean", "cls", "late"]

# Ours -> theirs. Several of theirs are stacked, in this order, along the first dimension of ours.
_MODERNBERT: Names = {
    "encoder.embedding.weight": ("model.embeddings.tok_embeddings.weight",),
    "encoder.embedding_norm.weight": ("model.embeddings.norm.weight",),
    "encoder.layers.{}.attention_norm.weight": ("model.layers.{}.attn_norm.weight",),
    "encoder.layers.{}.attention.qkv.weight": ("model.layers.{}.attn.Wqkv.weight",),
    "encoder.layers.{}.attention.output.weight": ("model.layers.{}.attn.Wo.weight",),
    "encoder.layers.{}.mlp_norm.weight": ("model.layers.{}.mlp_norm.weight",),
    "encoder.layers.{}.mlp.gate_up.weight": ("model.layers.{}.mlp.Wi.weight",),
    "encoder.layers.{}.mlp.down.weight": ("model.layers.{}.mlp.Wo.weight",),
    "encoder.norm.weight": ("model.final_norm.weight",),
    "transform.dense.weight": ("head.dense.weight",),
    "transform.norm.weight": ("head.norm.weight",),
    "decoder_weight": ("decoder.weight",),
    "decoder_bias": ("decoder.bias",),
    "classifier.weight": ("classifier.weight",),
    "classifier.bias": ("classifier.bias",),
}
_EUROBERT: Names = {
    "encoder.embedding.weight": ("model.embed_tokens.weight",),
    "encoder.layers.{}.attention_norm.weight": ("model.layers.{}.input_layernorm.weight",),
    "encoder.layers.{}.attention.qkv.weight": tuple(f"model.layers.{{}}.self_attn.{x}_proj.weight" for x in "qkv"),
    "encoder.layers.{}.attention.output.weight": ("model.layers.{}.self_attn.o_proj.weight",),
    "encoder.layers.{}.mlp_norm.weight": ("model.layers.{}.post_attention_layernorm.weight",),
    "encoder.layers.{}.mlp.gate_up.weight": (
        "model.layers.{}.mlp.gate_proj.weight",
        "model.layers.{}.mlp.up_proj.weight",
    ),
    "encoder.layers.{}.mlp.down.weight": ("model.layers.{}.mlp.down_proj.weight",),
    "encoder.norm.weight": ("model.norm.weight",),
    "decoder_weight": ("lm_head.weight",),
    "transform.dense.weight": ("dense.weight",),
    "transform.dense.bias": ("dense.bias",),
    "classifier.weight": ("classifier.weight",),
    "classifier.bias": ("classifier.bias",),
}
NAMES: dict[str, Names] = {"modernbert": _MODERNBERT, "eurobert": _EUROBERT}
CLASSES = {"modernbert": "ModernBert", "eurobert": "EuroBert"}  # before ForMaskedLM, ForSequenceClassification

# Their name of a pooling -> ours; the first is theirs where a configuration does not say.
_POOLING: dict[str, dict[str, Pooling]] = {
    "modernbert": {"cls": "cls", "mean": "mean"},
    "eurobert": {"late": "late", "bos": "cls", "mean": "mean"},
}

# What the architecture of a family fixes.
_FIXED: dict[str, Json] = {
    "modernbert": {"norm": "layernorm", "embedding_norm": True, "mlm_transform": True},
    "eurobert": {
        "norm": "rmsnorm",
        "embedding_norm": False,
        "mlm_transform": False,
        "decoder_bias": False,
        "global_attn_every_n_layers": 1,
    },
}
_INITIALIZATION = {"modernbert": "megatron", "eurobert": "normal"}  # where a configuration does not say

# Fields of ours that are called the same there.
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
          "max_position_embeddings")  # fmt: skip
_SAME = (*_SIZES, "initializer_range")
_POOLING_FIELDS = ("classifier_pooling", "clf_pooling")
_TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id")
# Fields of ours that transformers carries along unread, kept so that a model comes back as it was.
_OURS = ("attention_output_dropout", "initialization")

# Fields of theirs that must have one value, because we implement no other.
_DEMANDED: dict[str, Json] = {
    "modernbert": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "norm_bias": False,
        "classifier_bias": False,
        "initializer_cutoff_factor": 2.0,
    },
    "eurobert": {"attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False, "pretraining_tp": 1},
}
# Fields of theirs that change nothing in an encoder or its masked-language-model head.
# fmt: off
_IGNORED = frozenset((
    "_attn_implementation", "_name_or_path", "add_cross_attention", "architectures", "auto_map", "bad_words_ids",
    "bos_token", "chunk_size_feed_forward", "classifier_activation", "classifier_dropout", "classifier_pooling",
    "clf_pooling", "cls_token_id", "cross_attention_hidden_size", "decoder_start_token_id", "deterministic_flash_attn",
    "dtype", "eos_token", "finetuning_task", "gradient_checkpointing", "id2label", "is_decoder", "is_encoder_decoder",
    "label2id", "layer_norm_eps", "mask_token", "model_type", "num_labels", "output_attentions",
    "output_hidden_states", "pad_token", "position_embedding_type", "prefix", "problem_type", "reference_compile",
    "repad_logits_with_grad", "return_dict", "rms_norm_eps", "sep_token_id", "sparse_pred_ignore_index",
    "sparse_prediction", "sentence_transformers",
    "task", "task_specific_params", "tokenizer_class", "torch_dtype", "transformers_version",
    "use_cache",
))
# fmt: on

_Size = Annotated[int, Field(ge=1, le=1 << 40)]  # so that products of a few of them can be reckoned with
_Positive = Annotated[float, Field(gt=0)]

# What a field of theirs has to be where it is there; which of them a family asks for is seen later.
_KINDS: dict[Any, tuple[str, ...]] = {
    _Size: (*_SIZES, "num_key_value_heads", "head_dim", "global_attn_every_n_layers"),
    _Positive: ("initializer_range", "norm_eps", "rms_norm_eps", "rope_theta", "global_rope_theta", "local_rope_theta"),
    float: ("attention_output_dropout",),
    int: ("local_attention", *_TOKEN_IDS),
    str: ("hidden_act", "hidden_activation", "classifier_activation", "initialization", *_POOLING_FIELDS),
    bool: ("decoder_bias", "tie_word_embeddings"),
    list[str]: ("layer_types",),
    dict[str, Any]: ("rope_parameters",),
}
_DEFINITIONS: dict[str, Any] = {name: (kind | None, None) for kind, names in _KINDS.items() for name in names}
_Fields = create_model("_Fields", __base__=Strictly, **_DEFINITIONS)


class _Rope(Strictly):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: _Positive | None = None
    partial_rotary_factor: float | None = None


def family(config: EncoderConfig) -> str:
    """The architecture of transformers that computes this configuration, `modernbert` or `eurobert`, by its values.

    Raises ValueError saying what stands in the way of each where there is none.
    """
    obstacles = {}
    for name, fixed in _FIXED.items():
        given = {key: getattr(config, key) for key in fixed}
        wrong = [f"{key} is {given[key]!r}, not {value!r}" for key, value in fixed.items() if given[key] != value]
        if name == "modernbert" and config.num_key_value_heads != config.num_attention_heads:
            wrong.append(f"num_key_value_heads is {config.num_key_value_heads}, not {config.num_attention_heads}")
        if not wrong:
            return name
        obstacles[name] = "; ".join(wrong)
    raise ValueError(
        "no architecture of transformers computes this configuration: "
        + ". ".join(f"For {name}: {text}" for name, text in obstacles.items())
        + ". Change these fields to those of one family"
    )


def theirs(name: str, names: Names) -> tuple[str, ...]:
    """Their names of the weights that are stacked into our weight `name`."""
    number = next((part for part in name.split(".") if part.isdigit()), "")
    pattern = name.replace(f".{number}.", ".{}.") if number else name
    return tuple(their.format(number) for their in names[pattern])


def their_config(config: EncoderConfig, name: str, dtype: torch.dtype) -> Json:
    """config.json of a model of the family `name`."""
    fields = {key: getattr(config, key) for key in (*_SAME, *_TOKEN_IDS, *_OURS)}
    fields["tie_word_embeddings"] = config.tie_word_embeddings
    if config.mask_token_id is None:
        del fields["mask_token_id"]  # there it is a number or absent
    kind = {"architectures": [f"{CLASSES[name]}ForMaskedLM"], "model_type": name}
    fields = {**kind, "dtype": str(dtype).removeprefix("torch."), **fields, **_DEMANDED[name]}
    if name == "eurobert":
        return {
            **fields,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "rms_norm_eps": config.norm_eps,
            "hidden_act": config.hidden_act,
            "rope_theta": config.global_rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.global_rope_theta},
        }
    layers = range(config.num_hidden_layers)
    return {
        **fields,
        "norm_eps": config.norm_eps,
        "hidden_activation": config.hidden_act,
        "classifier_activation": config.hidden_act,
        "classifier_pooling": "mean",
        "cls_token_id": config.bos_token_id,
        "sep_token_id": config.eos_token_id,
        "decoder_bias": config.decoder_bias,
        "global_attn_every_n_layers": config.global_attn_every_n_layers,
        "local_attention": config.local_attention or 128,  # a number there even where no layer is local
        "layer_types": ["full_attention" if config.window(i) is None else "sliding_attention" for i in layers],
        "global_rope_theta": config.global_rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": config.global_rope_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
    }


def their_pooling(name: str, pooling: Pooling) -> str:
    """The inverse of `our_pooling`. Raises ValueError for a pooling that the family has not."""
    theirs = [their for their, ours in _POOLING[name].items() if ours == pooling]
    if not theirs:
        raise ValueError(f"pooling is {pooling!r}; {name} has {' and '.join(_POOLING[name].values())}")
    return theirs[0]


def our_pooling(given: Json, name: str, place: Path) -> Pooling:
    """How a classifier pools; `clf_pooling` is EuroBERT's own older word for it."""
    fit(_Fields, given, place)
    known = _POOLING[name]
    found = given.get("classifier_pooling") or given.get("clf_pooling") or next(iter(known))
    if found not in known:
        raise ValueError(f"{place}: classifier_pooling is {shown(found)}; {name} has {', '.join(known)}")
    return known[found]


def our_config(given: Json, name: str, place: Path) -> EncoderConfig:
    """The inverse of `their_config`; `place` is the file, for errors."""
    fit(_Fields, given, place)
    given = dict(given)
    for key, value in {**_DEMANDED[name], "rope_scaling": None, "hidden_dropout": 0.0}.items():
        found = given.pop(key, value)
        if found != value:
            raise ValueError(f"{place}: {key} is {shown(found)}, but only {value!r} is implemented")
    take = _Taker(given, place)
    act = "hidden_activation" if name == "modernbert" else "hidden_act"
    fields: Json = {
        **_FIXED[name],
        **{key: take(key) for key in _SAME},
        **{key: take(key, None) for key in _TOKEN_IDS},
        "tie_word_embeddings": take("tie_word_embeddings", name == "modernbert"),
        "attention_output_dropout": take("attention_output_dropout", 0.0),
        "initialization": take("initialization", _INITIALIZATION[name]),
        "hidden_act": take(act),
        "norm_eps": take("norm_eps" if name == "modernbert" else "rms_norm_eps"),
    }
    heads = fields["num_attention_heads"]
    fields["num_key_value_heads"] = (take("num_key_value_heads", None) if name == "eurobert" else None) or heads
    fields["head_dim"] = take("head_dim", None) or fields["hidden_size"] // heads
    fields |= _modernbert_fields(take, fields) if name == "modernbert" else _eurobert_fields(take)
    unknown = sorted(set(given) - take.taken - _IGNORED)
    if unknown:
        raise ValueError(f"{place}: field {shown(unknown[0])} is not implemented; remove it if it changes nothing")
    return fit(EncoderConfig, fields, place)


class _Taker:
    """Fields of one file, with a note of which were asked for."""

    def __init__(self, given: Json, place: Path) -> None:
        self.given, self.place, self.taken = given, place, set[str]()

    def __call__(self, key: str, *default: Any) -> Any:
        self.taken.add(key)
        if key in self.given and (default or self.given[key] is not None):
            return self.given[key]
        if not default:
            raise ValueError(f"{self.place}: field {key!r} is missing")
        return default[0]

    def theta(self, rope: Any, legacy: str) -> float:
        """The base of rotary frequencies, from a table of today or a field of older versions."""
        rope = {} if rope is None else dict(rope) if isinstance(rope, dict) else {"rope_type": rope}
        fit(_Rope, rope, self.place)
        kind = rope.pop("rope_type", None) or rope.pop("type", None) or "default"
        theta = rope.pop("rope_theta", None) or self(legacy, None)
        self(legacy, None)
        if kind != "default" or rope.pop("partial_rotary_factor", 1.0) != 1.0 or rope:
            more = shown(rope) if rope else ""
            raise ValueError(f"{self.place}: rotary positions of type {shown(kind)} {more} are not implemented")
        if theta is None:
            raise ValueError(f"{self.place}: field {legacy!r} is missing")
        return theta


def _eurobert_fields(take: _Taker) -> Json:
    theta = take.theta(take("rope_parameters", None), "rope_theta")
    return {"local_attention": None, "global_rope_theta": theta, "local_rope_theta": theta}


def _modernbert_fields(take: _Taker, fields: Json) -> Json:
    layers, types = fields["num_hidden_layers"], take("layer_types", None)
    spacing = take("global_attn_every_n_layers", None)
    if spacing is None:
        spacing = 3  # without a list; with one, the least n for which a global layer may stand every n layers
        if types is not None:
            spacing = next((n for n, kind in enumerate(types) if n and kind == "full_attention"), max(1, len(types)))
    # Lengths first: a list that the file holds is short, what num_hidden_layers says need not be.
    if types is not None and (
        len(types) != layers
        or types != ["sliding_attention" if i % spacing else "full_attention" for i in range(layers)]
    ):
        raise ValueError(
            f"{take.place}: layer_types are not those of a global layer every n layers; this is not implemented"
        )
    if take("classifier_activation", fields["hidden_act"]) != fields["hidden_act"]:
        raise ValueError(f"{take.place}: classifier_activation differs from hidden_activation; this is not implemented")
    rope = take("rope_parameters", None) or {}
    if unknown := sorted(rope.keys() - {"full_attention", "sliding_attention"}):
        raise ValueError(
            f"{take.place}: rope_parameters: {shown(unknown[0])} is not implemented; a modernbert has full_attention "
            "and sliding_attention there"
        )
    theta = take.theta(rope.get("full_attention"), "global_rope_theta")
    window, local = take("local_attention"), take.theta(rope.get("sliding_attention"), "local_rope_theta")
    return {
        "decoder_bias": take("decoder_bias", True),
        "global_attn_every_n_layers": spacing,
        "local_attention": None if spacing == 1 else window,
        "global_rope_theta": theta,
        "local_rope_theta": theta if spacing == 1 else local,
    }
