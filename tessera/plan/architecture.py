"""Encoder configurations and presets: what an encoder looks like, and its parameters and FLOPs by arithmetic.

One frozen configuration describes both families; they differ by values, not by names. Field names are those of a
Hugging Face configuration where one exists.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Size = Annotated[int, Field(ge=1, le=2**24)]
Layers = Annotated[int, Field(ge=1, le=2**10)]
MOST_PARAMETERS = 10**13  # a hundred times the largest encoder; what is above is a slip, or made to exhaust memory
TokenId = Annotated[int, Field(ge=0)]


class EncoderConfig(BaseModel):
    """A bidirectional, pre-norm, rotary transformer without biases, and its masked-language-model head.

    Raises ValueError (as pydantic's ValidationError) naming the fields that do not fit together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: Size  # rows of the embedding matrix
    hidden_size: Size
    intermediate_size: Size  # one half of the gated MLP: it projects to twice this
    num_hidden_layers: Layers
    num_attention_heads: Size  # of the queries
    num_key_value_heads: Size  # divides num_attention_heads; less than it is grouped-query attention
    head_dim: Size
    max_position_embeddings: Size  # longest document the model was made for, in tokens
    norm: Literal["layernorm", "rmsnorm"]  # both with a weight and without a bias
    norm_eps: float = Field(gt=0)
    hidden_act: Literal["gelu", "silu"]  # of the gate, and of the transform before the decoder
    embedding_norm: bool  # a norm after the embedding, and none before the first attention
    global_attn_every_n_layers: Size  # layer i sees its whole document iff i % n == 0; 1 = every layer does
    local_attention: Annotated[int, Field(ge=2)] | None  # window of the other layers, in tokens, both sides together
    global_rope_theta: float = Field(gt=0)
    local_rope_theta: float = Field(gt=0)
    mlm_transform: bool  # dense, activation and norm before the decoder
    decoder_bias: bool
    tie_word_embeddings: bool  # the decoder's matrix is the embedding's
    attention_output_dropout: float = Field(ge=0, lt=1)  # after the attention's output projection, in training
    initializer_range: float = Field(gt=0)  # standard deviation
    initialization: Literal["normal", "megatron"]  # see model/mlm.py: initialize
    pad_token_id: TokenId | None
    bos_token_id: TokenId | None
    eos_token_id: TokenId | None
    mask_token_id: TokenId | None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads}); change one of them"
            )
        if self.num_attention_heads * self.head_dim != self.hidden_size:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) x head_dim ({self.head_dim}) is "
                f"{self.num_attention_heads * self.head_dim}, hidden_size is {self.hidden_size}; set the three together"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions turn pairs, so give an even number")
        if self.local_attention is not None and self.local_attention % 2:
            raise ValueError(
                f"local_attention is {self.local_attention}; half of it lies on either side, so give an even number"
            )
        if (self.global_attn_every_n_layers == 1) != (self.local_attention is None):
            raise ValueError(
                f"global_attn_every_n_layers is {self.global_attn_every_n_layers} and "
                f"local_attention is {self.local_attention}; "
                "with 1 every layer is global and local_attention must be null, above 1 it must be a window in tokens"
            )
        if self.local_attention is None and self.local_rope_theta != self.global_rope_theta:
            raise ValueError(
                f"local_rope_theta ({self.local_rope_theta:g}) has no use where every layer is global; "
                f"give it the value of global_rope_theta ({self.global_rope_theta:g})"
            )
        if (total := parameters(self)["total"]) > MOST_PARAMETERS:
            raise ValueError(
                f"these sizes make {total:,} parameters, more than {MOST_PARAMETERS:,}; see vocab_size, hidden_size, "
                "intermediate_size and num_hidden_layers"
            )
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "mask_token_id"):
            given = getattr(self, name)
            if given is not None and given >= self.vocab_size:
                raise ValueError(f"{name} is {given}, but vocab_size is only {self.vocab_size}; set them together")
        return self

    def window(self, layer: int) -> int | None:
        """How many tokens a token of this layer sees on either side; None: its whole document."""
        if self.local_attention is None or layer % self.global_attn_every_n_layers == 0:
            return None
        return self.local_attention // 2


def parameters(config: EncoderConfig) -> dict[str, int]:
    """Parameters of each part, by arithmetic.

    embedding, layers, norms (after the embedding and after the last layer), head (the transform),
    decoder (its bias, and its matrix unless tied), total (all that is trained),
    backbone (embedding, layers and norms: the size under which a model is advertised).
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    norms_within = 2 * layers - (1 if config.embedding_norm else 0)
    parts = {
        "embedding": config.vocab_size * hidden,
        "layers": layers * _matrices_of_a_layer(config) + norms_within * hidden,
        "norms": (2 if config.embedding_norm else 1) * hidden,
        "head": hidden * hidden + hidden if config.mlm_transform else 0,
        "decoder": (config.vocab_size if config.decoder_bias else 0)
        + (0 if config.tie_word_embeddings else config.vocab_size * hidden),
    }
    backbone = parts["embedding"] + parts["layers"] + parts["norms"]
    return {**parts, "total": sum(parts.values()), "backbone": backbone}


def flops_per_token(config: EncoderConfig, length: int) -> float:
    """Forward FLOPs of the matrix products for one token of a document of `length` tokens, without the head.

    A multiply-add counts as two. Windows are counted as they are: exactly the visible pairs.
    """
    if length < 1:
        raise ValueError(f"length is {length}; a document has at least 1 token")
    dense = 2 * config.num_hidden_layers * _matrices_of_a_layer(config)
    pairs = sum(_visible(length, config.window(layer)) for layer in range(config.num_hidden_layers))
    return dense + 4 * config.num_attention_heads * config.head_dim * pairs / length


def head_flops(config: EncoderConfig) -> float:
    """Forward FLOPs of the matrix products of the head for one scored position."""
    hidden = config.hidden_size
    return 2.0 * hidden * (config.vocab_size + (hidden if config.mlm_transform else 0))


def _matrices_of_a_layer(config: EncoderConfig) -> int:
    heads = 2 * config.num_attention_heads + 2 * config.num_key_value_heads  # queries and output, keys and values
    return config.hidden_size * (heads * config.head_dim + 3 * config.intermediate_size)


def _visible(length: int, window: int | None) -> int:
    """Pairs of tokens of one document that see each other."""
    if window is None or window >= length - 1:
        return length * length
    return length * (2 * window + 1) - window * (window + 1)


def _eurobert(hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int) -> EncoderConfig:
    """Boizard et al. 2025, arXiv:2503.05500, section 2.1 and table 3; initializer_range as in the authors' code."""
    return EncoderConfig(
        vocab_size=128_256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=hidden // heads,
        max_position_embeddings=8192,
        norm="rmsnorm",
        norm_eps=1e-5,
        hidden_act="silu",
        embedding_norm=False,
        global_attn_every_n_layers=1,
        local_attention=None,
        global_rope_theta=10_000.0,
        local_rope_theta=10_000.0,
        mlm_transform=False,
        decoder_bias=False,
        tie_word_embeddings=False,
        attention_output_dropout=0.0,
        initializer_range=0.02,
        initialization="normal",
        pad_token_id=128_001,
        bos_token_id=128_000,
        eos_token_id=128_001,
        mask_token_id=128_002,
    )


def _mmbert(hidden: int, heads: int) -> EncoderConfig:
    """Marone et al. 2025, arXiv:2509.06888: ModernBERT (Warner et al. 2024, arXiv:2412.13663), Gemma 2's vocabulary."""
    return EncoderConfig(
        vocab_size=256_000,
        hidden_size=hidden,
        intermediate_size=1152,
        num_hidden_layers=22,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=64,
        max_position_embeddings=8192,
        norm="layernorm",
        norm_eps=1e-5,
        hidden_act="gelu",
        embedding_norm=True,
        global_attn_every_n_layers=3,
        local_attention=128,
        global_rope_theta=10_000.0,
        local_rope_theta=10_000.0,
        mlm_transform=True,
        decoder_bias=True,
        tie_word_embeddings=True,
        attention_output_dropout=0.1,
        initializer_range=0.02,
        initialization="megatron",
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
        mask_token_id=4,
    )


PRESETS: dict[str, EncoderConfig] = {
    "eurobert-210m": _eurobert(768, 3072, 12, 12, 12),
    "eurobert-610m": _eurobert(1152, 4096, 26, 18, 6),
    "eurobert-2.1b": _eurobert(2304, 6144, 32, 18, 6),
    "mmbert-small": _mmbert(384, 6),
    "mmbert-base": _mmbert(768, 12),
}
"""Shapes as pre-training begins: phases of a recipe change the RoPE thetas later on."""
