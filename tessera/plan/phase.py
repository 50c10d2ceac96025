"""The configuration of a phase: what it reads, how it is trained, and on which objective.

A phase is pre-training by masked language modelling, unless it says `distil` (vectors of a teacher) or `contrast`
(translations): these train sentence embeddings, on the same clock and from the same computed stream.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from tessera.plan.fields import (
    AUTO,
    Curve,
    Languages,
    MovingRatio,
    MovingShare,
    Name,
    Ratio,
    Share,
    Strict,
    Tokens,
    TokensOrAuto,
    TokensOrNone,
    at,
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


class Distil(Strict):
    """Knowledge distillation of sentence embeddings: the mean of a text's hidden states is drawn to a teacher's vector.

    Of a pair both sides are drawn to the teacher's vector of the second one.

    Source: Reimers and Gurevych 2020, arXiv:2004.09813.
    """

    teacher: str  # a folder in the format of sentence-transformers
    prompt: str = ""  # stands before everything that the teacher reads
    loss: Literal["mse", "cosine"] = "mse"
    anchors: int = Field(0, ge=0)  # of the teacher's vectors, whose similarities to each text are learnt as well (SEED)
    pairs: Share = 0.0  # of the tokens; the rest are documents, as `mixture` of the phase says
    pair_mixture: Mixture = Mixture()  # of these; pairs count for the language of their first side


class Contrast(Strict):
    """Contrastive training on pairs (InfoNCE): each side finds the other among all pairs of the batch, both ways.

    The mixture of the phase is one of pairs. Hard negatives are second sides that the model which the phase starts from
    takes for an answer: mined before it begins, they are held against the first sides.

    Source: van den Oord et al. 2018, arXiv:1807.03748; of the negatives Moreira et al. 2024, arXiv:2407.15831.
    """

    temperature: float = Field(0.05, gt=0)  # cosines are divided by it
    negatives: int = Field(0, ge=0)  # hard ones of each pair, besides those of the batch
    below: float = Field(0.95, gt=0, le=1)  # share of the answer's cosine: what is nearer may be an answer as well
    among: int = Field(16_384, ge=2)  # pairs, drawn by chance, among which those of each are looked for

    @model_validator(mode="after")
    def _asks_for_negatives(self) -> Self:
        fields = type(self).model_fields
        for key in ("below", "among"):
            if not self.negatives and getattr(self, key) != fields[key].default:
                raise ValueError(f"{key} is of hard negatives, and there are none; say how many, as negatives: 2")
        return self


Freeze = Literal["none", "embeddings", "layers", "all_but_new_rows"]


class Phase(Strict):
    """One stretch of training on one data mixture, at one context length."""

    name: Name
    from_: str = Field(alias="from")  # "scratch", an earlier phase, or a folder with a Hugging Face checkpoint
    foreign_tokenizer: bool = False  # the folder it starts from was trained with another tokenizer, and that is meant
    tokens: TokensOrAuto  # to read in this phase; auto: as many as mixture.max_epochs allows of the text
    context: int = Field(ge=8)  # context length: longest piece of a document, in tokens
    batch_tokens: Tokens  # read between two updates of the weights
    batch_warmup: BatchWarmup | None = None
    mask_ratio: MovingRatio | None = None  # share of tokens to predict; special tokens are never chosen
    mask_replacement: Literal["mask", "80-10-10"] = "mask"  # all <mask>, or 80% <mask>, 10% random, 10% unchanged
    learning_rate: LearningRate
    optimizer: Optimizer = Optimizer()
    keep_optimizer: bool = True  # start with the moments of the phase it comes `from`, where there are any
    freeze: Freeze = "none"  # weights that stay what they are; see train/freeze.py
    checkpoint_every: Tokens | None = None  # a checkpoint that stays, besides those of machine.checkpoint_minutes
    rope_theta: RopeTheta | None = None  # from here on; None keeps what the model has
    crop: Crop | None = None
    blow_up: BlowUp = BlowUp()
    mixture: Mixture = Mixture()
    distil: Distil | None = None
    contrast: Contrast | None = None

    @property
    def kind(self) -> Literal["masked", "distil", "contrast"]:
        """The objective."""
        return "distil" if self.distil is not None else "contrast" if self.contrast is not None else "masked"

    @property
    def pairs(self) -> float:
        """The share of the tokens that are of pairs."""
        return self.distil.pairs if self.distil is not None else float(self.contrast is not None)

    @property
    def predicted(self) -> Ratio | Curve:
        """The share of tokens that is predicted; 0 where sentence embeddings are trained."""
        return 0.0 if self.mask_ratio is None else self.mask_ratio

    def moves_as(self, other: "Phase") -> bool:
        """Whether the optimizers of two phases have the same state: moments of one kind, of the same weights."""
        return (self.optimizer.name, self.freeze) == (other.optimizer.name, other.freeze)

    @property
    def auto(self) -> bool:
        """Whether the text at hand has yet to say how many tokens are read; see fit.settled."""
        return self.tokens == AUTO

    @model_validator(mode="after")
    def _has_one_objective(self) -> Self:
        if self.distil is not None and self.contrast is not None:
            raise ValueError("distil and contrast are two objectives; give each a phase of its own")
        if self.kind == "masked":
            if self.mask_ratio is None:
                raise ValueError("mask_ratio is missing: the share of tokens to predict (or say distil, or contrast)")
            return self
        for key, given in (("mask_ratio", self.mask_ratio), ("crop", self.crop)):
            if given is not None:
                raise ValueError(f"{key} is of masked language modelling, and this phase is {self.kind}; leave it out")
        if self.blow_up.loss_above_uniform is not None:
            raise ValueError(f"blow_up.loss_above_uniform is of masked language modelling; this phase is {self.kind}")
        if self.auto:
            raise ValueError(f"tokens: auto counts what masked language modelling reads; give {self.kind} a number")
        if self.contrast is not None and self.contrast.negatives and self.from_ == "scratch":
            raise ValueError(
                "contrast.negatives are mined by the model that the phase starts from, and from scratch there is none; "
                "leave them out here, and contrast with them in a phase that starts from this one"
            )
        return self

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
