"""Frozen parameters: which weights a phase trains, and which stay what they were, bit for bit.

`freeze` of a phase: `embeddings` freezes the rows of the vocabulary (the embedding, and of what predicts tokens the
decoder and its bias), `layers` freezes all but these rows, `all_but_new_rows` all but the rows that `tessera vocabulary
extend` or `replace` added.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tessera.files import write_json
from tessera.huggingface.hf_files import find_model
from tessera.huggingface.hub import AnyMaskedLM
from tessera.json_files import Strictly, read_own
from tessera.model.mlm import MaskedLM
from tessera.plan.fields import is_folder
from tessera.plan.phase import Phase
from tessera.plan.recipe import Recipe
from tessera.train import distributed

# Shapes: V rows of the vocabulary, R of them new.

# Beside a model whose vocabulary was changed: the old id of each row, -1 where it is new.
VOCABULARY = "vocabulary.json"
KEPT = "new_rows.json"  # in the folder of a phase


class NewRows:
    """The new rows of all tables [V, ...] as parameters [R, ...] of their own: what an optimizer sees of a model.

    Weight decay, moments and the norm of the gradient so know no other row.
    """

    def __init__(self, tables: list[nn.Parameter], rows: Tensor) -> None:
        self._tables, self._rows = tables, rows
        self.parameters = [nn.Parameter(table.detach()[rows]) for table in tables]

    def take_gradients(self) -> None:
        """Moves the gradients of the rows from the tables to `parameters`; those of other rows are dropped."""
        for table, own in zip(self._tables, self.parameters, strict=True):
            own.grad = None if table.grad is None else table.grad[self._rows]
            table.grad = None

    @torch.no_grad()
    def put_back(self) -> None:
        """Writes `parameters` into the tables, after a step of the optimizer."""
        for table, own in zip(self._tables, self.parameters, strict=True):
            table[self._rows] = own


def freeze(model: AnyMaskedLM, phase: Phase, new: list[int] | None) -> NewRows | None:
    """Says which weights learn (`requires_grad`), before the model is spread over processes.

    new  ids of the new rows, of `new_rows`: for all_but_new_rows
    """
    tables = vocabulary_tables(model)
    if phase.freeze == "embeddings":
        for table in tables:
            table.requires_grad_(False)
    if phase.freeze in ("layers", "all_but_new_rows"):
        own = {id(table) for table in tables}
        for weight in model.parameters():
            weight.requires_grad_(id(weight) in own)
    if new is None:
        return None
    return NewRows(tables, torch.tensor(new, device=tables[0].device))


def vocabulary_tables(model: AnyMaskedLM) -> list[nn.Parameter]:
    """The weights with a row for each token: the embedding and, where they are weights of their own, decoder and bias.

    each  [V, C], the bias [V]
    """
    found: list[Tensor | None]
    if isinstance(model, MaskedLM):
        found = [model.encoder.embedding.weight, model.decoder_weight, model.decoder_bias]
    else:
        output = model.model.get_output_embeddings()
        found = [model.model.get_input_embeddings().weight, output.weight, output.bias]
    return list({id(table): table for table in found if isinstance(table, nn.Parameter)}.values())


def learning(model: nn.Module, rows: NewRows | None) -> Iterator[nn.Parameter]:
    """The parameters that an optimizer moves, in the order of the model."""
    return iter(rows.parameters) if rows is not None else (p for p in model.parameters() if p.requires_grad)


def kept_rows(recipe: Recipe, phase: Phase, run: Path, world: distributed.World) -> list[int] | None:
    """The new rows of a phase that freezes all others, noted in its folder when it begins; None for other phases.

    Raises ValueError as `new_rows`.
    """
    if phase.freeze != "all_but_new_rows":
        return None
    place, found = run / phase.name / KEPT, None
    if world.leads:
        if not place.is_file():
            write_json(place, {"rows": new_rows(recipe, phase)}, sealed=True)
        found = read_own(_Kept, place).rows
    rows: list[int] = distributed.from_lead(found, world)
    return rows


class _Kept(Strictly):
    rows: list[int]


def added_rows(place: Path) -> list[int]:
    """Ids of the rows that a vocabulary.json calls new. Raises ValueError for a damaged one."""
    return [i for i, old in enumerate(read_own(_Kept, place).rows) if old == -1]


def new_rows(recipe: Recipe, phase: Phase) -> list[int]:
    """Ids of the rows that are new in the folder with which the phases up to this one began.

    Raises ValueError where that is no folder, or one whose vocabulary was neither extended nor replaced.
    """
    first = recipe.phase(recipe.chain(phase.name)[0])
    what = f"phases.{phase.name}.freeze is all_but_new_rows"
    if not is_folder(first.from_):
        raise ValueError(f"{what}, but {first.name} starts from scratch, where no row is old; leave freeze out")
    place = find_model(first.from_) / VOCABULARY
    if not place.is_file():
        raise ValueError(
            f"{what}, but {place} is missing, which says what rows are new; give a folder of tessera vocabulary extend "
            "or replace, or freeze: layers"
        )
    new = added_rows(place)
    if not new:
        raise ValueError(f"{what}, but by {place} no row is new; take freeze: layers, or leave freeze out")
    return new
