"""The configuration of a whole run as strict models; plan/loading.py reads them from a YAML file.

A recipe names the text, the tokenizer, the model, the phases (a graph: each phase says which one it starts `from`),
the merges that join phases, and what is evaluated. Only `machine:` may change between a run and its resumption;
`loading.science(recipe)` is everything else.
"""

from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from tessera.plan.architecture import PRESETS, EncoderConfig
from tessera.plan.corpus import Corpus, TokenizerTraining
from tessera.plan.errors import did_you_mean, one_line
from tessera.plan.evaluation import Evaluation
from tessera.plan.fields import (
    AUTO,
    Curve,
    Languages,
    MovingRatio,
    MovingShare,
    Name,
    Part,
    Ratio,
    Share,
    Strict,
    Tokens,
    TokensOrAuto,
    TokensOrNone,
    at,
    is_folder,
    refuse_twins,
)


class Mixture(Strict):
    """What a phase reads. Shares are of tokens. See plan/mixture.py for the arithmetic."""

    languages: Languages = "all"  # that share what `shares` leaves
    temperature: MovingShare = 1.0  # p_i proportional to n_i ** temperature, n_i the tokens of language i
    # Fixed: of a source (`code`), a language (`eng_Latn`) or one of one (`web/eng_Latn`).
    shares: dict[str, MovingShare] = Field(default_factory=dict)
    # Languages that are read only from this many planned tokens of the phase on.
    entries: dict[str, Tokens] = Field(default_factory=dict)
    max_epochs: float | None = Field(None, gt=0)  # no bucket is read more often than this within the phase
    tiers: tuple[int, ...] | None = None  # quality tiers that are read; None reads all

    @property
    def moves(self) -> bool:
        """Whether anything here changes within the phase."""
        return bool(self.entries) or any(isinstance(v, Curve) for v in (self.temperature, *self.shares.values()))

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        moving = any(isinstance(share, Curve) for share in self.shares.values())
        moments = [n / 64 for n in range(65)] if moving else [0.0]
        total = max(sum(at(share, moment) for share in self.shares.values()) for moment in moments)
        if total > 1 + 1e-6:
            raise ValueError(f"shares add up to {total:.4f}; they are parts of one whole, so at most 1")
        if self.tiers is not None and not set(self.tiers) <= {1, 2, 3, 4}:
            raise ValueError(f"tiers are 1, 2, 3 and 4, not {list(self.tiers)}")
        return self


class LearningRate(Strict):
    """warm-up, plateau at `peak`, decay to `floor * peak`; lengths in tokens. See plan/schedule.py."""

    peak: float = Field(gt=0)
    warmup: TokensOrNone = 0
    decay: TokensOrNone = 0
    shape: Literal["linear", "cosine", "one_minus_sqrt"] = "linear"  # of the decay
    floor: Share = 0.0  # share of the peak at the end of the decay
    halve_at: Tokens | None = None  # peak and weight decay are halved from here on (mmBERT-small, 1.2T)


class Optimizer(Strict):
    name: Literal["adamw", "stableadamw", "muon"] = "adamw"  # muon: AdamW for all but the matrices inside layers
    betas: tuple[Ratio, Ratio] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    momentum: Ratio = 0.95  # of Muon
    weight_decay: float = Field(0.0, ge=0)
    fully_decoupled: bool = False  # weight_decay is taken off at each step scaled by lr/peak, not multiplied by lr
    clip_norm: float | None = Field(None, gt=0)  # of the whole gradient; StableAdamW clips each update itself


class BatchWarmup(Strict):
    start: Tokens  # tokens of the first step
    tokens: Tokens  # how long the batch grows


class RopeTheta(Strict):
    global_: float = Field(alias="global", gt=0)
    local: float = Field(gt=0)


class BlowUp(Strict):
    """A step that goes wrong: its loss or gradient is no number, or above a bound. See train/bad_steps.py."""

    policy: Literal["stop", "skip", "rollback"] = "stop"  # rollback: to the last checkpoint of checkpoint_every
    loss_above_uniform: float | None = Field(None, gt=0)  # nats above ln(vocabulary), which is what guessing costs
    gradient_norm: float | None = Field(None, gt=0)  # of the whole gradient, before it is clipped
    in_a_row: int = Field(3, ge=1)  # so many in a row are forgiven, the next stops the run
    in_all: int = Field(20, ge=1)  # the same for the whole phase


class Crop(Strict):
    """Random lengths. EuroBERT's code cuts a block of `context` tokens into two complementary pieces; its paper
    describes a fresh uniform length for each piece. Both keep every token."""

    how: Literal["complementary", "uniform"]
    min_length: int = Field(12, ge=1)


class Phase(Strict):
    """One stretch of training on one data mixture, at one context length."""

    name: Name
    from_: str = Field(alias="from")  # "scratch", an earlier phase, or a folder with a Hugging Face checkpoint
    foreign_tokenizer: bool = False  # the folder it starts from was trained with another tokenizer, and that is meant
    tokens: TokensOrAuto  # to read in this phase; auto: as many as mixture.max_epochs allows of the text
    context: int = Field(ge=8)  # context length: longest piece of a document, in tokens
    batch_tokens: Tokens  # read between two updates of the weights
    batch_warmup: BatchWarmup | None = None
    mask_ratio: MovingRatio  # share of tokens to predict; special tokens are never chosen
    mask_replacement: Literal["mask", "80-10-10"] = "mask"  # all <mask>, or 80% <mask>, 10% random, 10% unchanged
    learning_rate: LearningRate
    optimizer: Optimizer = Optimizer()
    keep_optimizer: bool = True  # start with the moments of the phase it comes `from`, where there are any
    checkpoint_every: Tokens | None = None  # a checkpoint that stays, besides those of machine.checkpoint_minutes
    rope_theta: RopeTheta | None = None  # from here on; None keeps what the model has
    crop: Crop | None = None
    blow_up: BlowUp = BlowUp()
    mixture: Mixture = Mixture()

    @property
    def auto(self) -> bool:
        """Whether the text at hand has yet to say how many tokens are read; see fit.settled."""
        return self.tokens == AUTO

    @model_validator(mode="after")
    def _ramps_fit(self) -> Self:
        rate = self.learning_rate
        if self.auto and self.mixture.max_epochs is None:
            raise ValueError("tokens: auto reads as much as mixture.max_epochs allows; say how often, as max_epochs: 4")
        if not self.auto and rate.warmup + rate.decay > self.tokens:
            raise ValueError(
                f"learning_rate: warmup ({rate.warmup}) and decay ({rate.decay}) need {rate.warmup + rate.decay} "
                f"tokens, but the phase has only {self.tokens}; shorten a ramp or lengthen the phase"
            )
        if self.batch_tokens < self.context:
            raise ValueError(
                f"batch_tokens is {self.batch_tokens}, less than one piece of {self.context} tokens (context)"
            )
        if self.batch_warmup is not None and self.batch_warmup.start > self.batch_tokens:
            raise ValueError(
                f"batch_warmup starts at {self.batch_warmup.start}, above batch_tokens {self.batch_tokens}"
            )
        if not self.auto and rate.halve_at is not None and rate.halve_at >= self.tokens:
            raise ValueError(f"learning_rate: halve_at is {rate.halve_at}, but the phase has only {self.tokens} tokens")
        if self.blow_up.policy == "rollback" and self.checkpoint_every is None:
            raise ValueError(
                "blow_up: rollback goes back to a checkpoint of checkpoint_every, and there is none; set it (those of "
                "machine.checkpoint_minutes will not do: the result would depend on the clock on the wall)"
            )
        for language, entry in self.mixture.entries.items():
            if not self.auto and entry >= self.tokens:
                raise ValueError(f"mixture.entries: {language} enters at {entry}, but the phase ends at {self.tokens}")
        return self


class Merge(Strict):
    """Weights of several models into one. See model/merging.py."""

    name: Name
    method: Literal["ties", "linear", "exponential"]
    models: tuple[str, ...] = ()  # phases
    checkpoints_of: str | None = None  # or the last `last` checkpoints of one phase, oldest first
    last: int = Field(4, ge=2)
    base: str | None = None  # ties: the phase that the models branched from
    weights: tuple[float, ...] | None = None  # None: equal
    density: Part = 0.2  # ties: share of each task vector that is kept (top 20% in the paper)
    scale: float = Field(1.0, gt=0)  # ties: the merged task vector is multiplied by this before it is added
    decay: Part = 0.5  # exponential: weight of each checkpoint relative to the one after it
    config_of: str | None = None  # the one of `models` whose rope_theta holds where theirs differ; None: they may not

    @model_validator(mode="after")
    def _has_models(self) -> Self:
        if bool(self.models) == (self.checkpoints_of is not None):
            raise ValueError("name either `models` (phases) or `checkpoints_of` (one phase)")
        if self.models and len(self.models) < 2:
            raise ValueError(f"a merge needs at least two models, {list(self.models)} is one")
        if self.weights is not None and len(self.weights) != (len(self.models) or self.last):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models) or self.last} models")
        if self.weights is not None and (min(self.weights) < 0 or max(self.weights) <= 0):
            raise ValueError(f"weights are {list(self.weights)}; give numbers of at least 0 that are not all 0")
        if self.config_of is not None and self.config_of not in self.models:
            raise ValueError(f"config_of is {self.config_of!r}, which is none of its models {list(self.models)}")
        if self.method == "ties" and self.base is None:
            raise ValueError("ties adds task vectors to a base; name the phase the models branched from as `base`")
        return self


TOKENS_AT_ONCE = 16_384


class Machine(Strict):
    """Speed, never science: this may change when a run is resumed."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the matrix products; weights stay float32
    attention: Literal["auto", "reference", "cpu", "varlen"] = "auto"
    threads: int | None = Field(None, ge=1)
    engine: Literal["native", "ray"] = "native"  # Daft's runner for the corpus: this machine, or a Ray cluster
    tokenize: Literal["tokenizers", "gigatoken"] = "tokenizers"  # gigatoken only where its ids are the same
    parallel: Literal["ddp", "fsdp2"] = "ddp"  # several processes hold the model each, or a part of it each
    micro_batch_tokens: TokensOrAuto = AUTO  # auto: what a GPU's memory holds, elsewhere TOKENS_AT_ONCE
    compile: Literal["auto", "on", "off"] = "auto"  # layers on CUDA by torch.compile; auto: where a compiler is at hand
    residual: Literal["float32", "bfloat16"] = "float32"  # what layers add to, where products are bfloat16
    checkpoint_minutes: float = Field(10.0, gt=0)
    keep_checkpoints: int = Field(2, ge=1)

    @property
    def tokens_at_once(self) -> int:
        """`micro_batch_tokens` for all but pre-training, which alone knows what a pass takes of a GPU's memory."""
        return self.micro_batch_tokens or TOKENS_AT_ONCE


class Resize(Strict):
    """First weights out of a trained model of another size. See model/resize.py."""

    from_: str = Field(alias="from")  # a folder with a Hugging Face checkpoint
    how: Literal["strided", "tile"]  # strided: smaller than it; tile: larger


class Model(Strict):
    """A preset of plan/architecture.py, or a Hugging Face folder of phases[0].from, with single fields changed."""

    preset: str | None = None
    override: dict[str, Any] = Field(default_factory=dict)
    resize: Resize | None = None  # what phases from scratch begin with, in place of random weights

    @model_validator(mode="after")
    def _is_a_model(self) -> Self:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}; {did_you_mean(self.preset, PRESETS)}")
        fields = EncoderConfig.model_fields
        for key in self.override:
            if key not in fields:
                raise ValueError(f"override: unknown key {key!r}; {did_you_mean(key, fields)}")
        if self.preset is not None:
            try:
                self.config()
            except ValidationError as error:
                raise ValueError(f"override: {one_line(error)}") from None
        return self

    def config(self, **more: Any) -> EncoderConfig:
        """The architecture: the preset, then `override`, then `more` (what the tokenizer says)."""
        assert self.preset is not None
        return EncoderConfig.model_validate({**PRESETS[self.preset].model_dump(), **self.override, **more})


TAKEN = frozenset({"scratch", "documents", "tokenizer", "shards", "evaluation"})
"""Names that a stage cannot have: `from: scratch`, and the folders of a run beside those of its stages."""


class Recipe(Strict):
    name: Name
    seed: int = 0
    notes: str = ""
    corpus: Corpus
    tokenizer: TokenizerTraining = TokenizerTraining()
    model: Model = Model()  # no preset: every first phase starts from a folder
    phases: tuple[Phase, ...] = Field(min_length=1)
    merges: tuple[Merge, ...] = ()
    evaluation: Evaluation = Evaluation()
    machine: Machine = Machine()

    @model_validator(mode="after")
    def _is_a_graph(self) -> Self:
        stages = [p.name for p in self.phases] + [m.name for m in self.merges]
        refuse_twins(stages, "stage")
        for name in stages:
            if name in TAKEN:
                raise ValueError(
                    f"a stage may not be called {name!r}; the run needs the names {', '.join(sorted(TAKEN))}"
                )
        known: list[str] = []
        for phase in self.phases:
            source = phase.from_
            if source == "scratch":
                if self.model.preset is None:
                    raise ValueError(
                        f"phase {phase.name!r} starts from scratch, so model.preset must name an architecture"
                    )
            elif not is_folder(source) and source not in known:
                hint = did_you_mean(source, known) if known else "the first phase starts from scratch or from a folder"
                raise ValueError(
                    f"phase {phase.name!r} starts from {source!r}, which is no earlier phase; {hint} "
                    "(a folder is written with a slash, as ./model)"
                )
            known.append(phase.name)
        for merge in self.merges:
            for stage in (*merge.models, *filter(None, (merge.base, merge.checkpoints_of))):
                if stage not in known:
                    raise ValueError(
                        f"merge {merge.name!r} names {stage!r}, which is no phase; {did_you_mean(stage, known)}"
                    )
            if merge.checkpoints_of is not None and self.phase(merge.checkpoints_of).checkpoint_every is None:
                raise ValueError(
                    f"merge {merge.name!r} joins checkpoints of {merge.checkpoints_of!r}; "
                    "set checkpoint_every in that phase"
                )
            thetas = {name: theta for name in merge.models if (theta := self._theta(name))}
            if len(set(thetas.values())) > 1 and merge.config_of is None:
                raise ValueError(
                    f"merge {merge.name!r} joins models of different rotary bases: "
                    + ", ".join(f"{name} has {theta}" for name, theta in thetas.items())
                    + "; give their phases one rope_theta, or name the model whose holds with config_of"
                )
        return self

    def _theta(self, name: str) -> str | None:
        """The rotary bases with which a phase ends; None where a folder has them."""
        phase = self.phase(name)
        if phase.rope_theta is not None:
            return f"global {phase.rope_theta.global_:g}, local {phase.rope_theta.local:g}"
        if phase.from_ == "scratch":
            config = self.model.config()
            return f"global {config.global_rope_theta:g}, local {config.local_rope_theta:g}"
        return None if is_folder(phase.from_) else self._theta(phase.from_)

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(p for p in self.phases if p.name == name)

    def chain(self, name: str | None) -> list[str]:
        """The phases that went into a phase, oldest first, itself the last; none of a folder or of `scratch`."""
        phases, chain = {p.name: p for p in self.phases}, []
        while name in phases:
            chain.append(name)
            name = phases[name].from_
        return chain[::-1]
