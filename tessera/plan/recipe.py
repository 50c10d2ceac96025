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
from tessera.plan.fields import AUTO, Name, Part, Strict, TokensOrAuto, is_folder, refuse_twins
from tessera.plan.phase import Phase


class Merge(Strict):
    """Weights of several models into one. See huggingface/merging.py."""

    name: Name
    method: Literal["ties", "linear", "exponential"]
    models: tuple[str, ...] = ()  # phases; beside one, also folders, as what a phase started from
    checkpoints_of: str | None = None  # or the last `last` checkpoints of one phase, oldest first
    last: int = Field(4, ge=2)
    base: str | None = None  # ties: the phase, or the folder, that the models branched from
    weights: tuple[float, ...] | None = None  # None: equal
    density: Part = 0.2  # ties: share of each task vector that is kept (top 20% in the paper)
    scale: float = Field(1.0, gt=0)  # ties: the merged task vector is multiplied by this before it is added
    decay: Part = 0.5  # exponential: weight of each checkpoint relative to the one after it
    config_of: str | None = None  # the one of `models` whose rope_theta holds where theirs differ; None: they may not

    @property
    def stages(self) -> tuple[str, ...]:
        """All phases that it reads."""
        return tuple(name for name in (*self.models, self.base, self.checkpoints_of) if name and not is_folder(name))

    @property
    def trained(self) -> tuple[str, ...]:
        """The phases whose weights it joins."""
        return tuple(name for name in self.models if not is_folder(name)) or tuple(filter(None, (self.checkpoints_of,)))

    @property
    def folders(self) -> tuple[str, ...]:
        """The model folders that it reads, those of no phase."""
        return tuple(name for name in (*self.models, self.base) if name and is_folder(name))

    @model_validator(mode="after")
    def _has_models(self) -> Self:
        if bool(self.models) == (self.checkpoints_of is not None):
            raise ValueError("name either `models` (phases) or `checkpoints_of` (one phase)")
        if self.models and len(self.models) < 2:
            raise ValueError(f"a merge needs at least two models, {list(self.models)} is one")
        if not self.trained:
            raise ValueError(f"none of {list(self.models)} is a phase; tessera merge joins folders alone")
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
    """What phases from scratch make: a preset of plan/architecture.py with single fields changed. A phase that starts
    from a folder is what the config.json there says."""

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
    seed: int = Field(0, ge=-(2**63), lt=2**63)
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
        known: list[str] = []  # phases, each with all that stand before it
        for phase in self.phases:
            source = phase.from_
            if source == "scratch":
                if self.model.preset is None:
                    raise ValueError(
                        f"phase {phase.name!r} starts from scratch, so model.preset must name an architecture"
                    )
            elif not is_folder(source) and source not in known:
                self._starts_from_a_merge(phase, known)
            known.append(phase.name)
        for merge in self.merges:
            self._joins_phases(merge, known)
        return self

    def _starts_from_a_merge(self, phase: Phase, known: list[str]) -> None:
        """Raises ValueError unless a phase starts from a merge of phases that stand before it."""
        merge = next((merge for merge in self.merges if merge.name == phase.from_), None)
        if merge is not None and (late := [name for name in merge.stages if name not in known]):
            raise ValueError(f"phase {phase.name!r} starts from the merge of {late[0]!r}, which stands after it")
        if merge is None:
            hint = did_you_mean(phase.from_, known) if known else "the first phase starts from scratch or from a folder"
            raise ValueError(
                f"phase {phase.name!r} starts from {phase.from_!r}, which is no earlier phase; {hint} "
                "(a folder is written with a slash, as ./model)"
            )

    def _joins_phases(self, merge: Merge, known: list[str]) -> None:
        """Raises ValueError unless a merge joins phases whose weights can be joined."""
        for stage in merge.stages:
            if stage not in known:
                raise ValueError(
                    f"merge {merge.name!r} names {stage!r}, which is no phase; {did_you_mean(stage, known)}"
                )
        if merge.checkpoints_of is not None and self.phase(merge.checkpoints_of).checkpoint_every is None:
            raise ValueError(
                f"merge {merge.name!r} joins checkpoints of {merge.checkpoints_of!r}; "
                "set checkpoint_every in that phase"
            )
        thetas = {name: theta for name in merge.trained if (theta := self._theta(name))}
        if len(set(thetas.values())) > 1 and merge.config_of is None:
            raise ValueError(
                f"merge {merge.name!r} joins models of different rotary bases: "
                + ", ".join(f"{name} has {theta}" for name, theta in thetas.items())
                + "; give their phases one rope_theta, or name the model whose holds with config_of"
            )

    def _theta(self, name: str) -> str | None:
        """The rotary bases with which a phase ends; None where a folder has them."""
        phase = self.phase(name)
        if phase.rope_theta is not None:
            return f"global {phase.rope_theta.global_:g}, local {phase.rope_theta.local:g}"
        if phase.from_ == "scratch":
            config = self.model.config()
            return f"global {config.global_rope_theta:g}, local {config.local_rope_theta:g}"
        return None if is_folder(phase.from_) else self._theta(self._trained(phase.from_))

    def _trained(self, name: str) -> str:
        """The phase that a stage is, or the one whose configuration a merge has."""
        merge = next((merge for merge in self.merges if merge.name == name), None)
        return name if merge is None else merge.config_of or merge.trained[0]

    def phase(self, name: str) -> Phase:
        """The phase of that name."""
        return next(p for p in self.phases if p.name == name)

    def embeds(self, stage: str) -> bool:
        """Whether a stage trained sentence embeddings, or is a merge of such."""
        return self.phase(self._trained(stage)).kind != "masked"

    def went_into(self, name: str | None) -> set[str]:
        """All stages whose training a stage holds, itself among them, also by merges; none of a folder."""
        phases, merges = {p.name: p for p in self.phases}, {m.name: m for m in self.merges}
        found, due = set[str](), [name]
        while due:
            if (one := due.pop()) is None or one in found or not (one in phases or one in merges):
                continue
            found.add(one)
            due += [phases[one].from_] if one in phases else merges[one].stages
        return found

    def chain(self, name: str | None) -> list[str]:
        """The phases that went into a phase, oldest first, itself the last; none of a folder or of `scratch`.

        Of a merge that one of them starts from, those of the model whose configuration it has.
        """
        phases, chain = {p.name: p for p in self.phases}, []
        while name in phases:
            chain.append(name)
            name = self._trained(phases[name].from_)
        return chain[::-1]
