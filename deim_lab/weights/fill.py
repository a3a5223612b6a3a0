"""Tensors of the official layout into a model: what fits is copied, head rows go by class name,
everything else is reported.

A model is changed only after everything was found to fit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from deim_lab.detector.detector import Detector
from deim_lab.errors import WeightsError
from deim_lab.weights.classes import Category, ClassMapping, match_classes, names_of
from deim_lab.weights.layout import (
    COPIED,
    StateDict,
    describe,
    is_derived,
    is_of_classes,
    is_optional,
    some,
)

# More missing or unexpected keys than this share: the file is of another model, not one with a part
# more or less.
_FOREIGN_SHARE = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What did not go from file to model as it was: names of tensors. Equal reports are about the
    same tensors.

    Attributes:
        missing: in the model, not in the file; they keep their values.
        unexpected: in the file, not in the model; not used.
        reinitialised: with rows of classes that the file hasn't; those have their initial values
            (score heads the focal prior).
        classes: whose head rows were kept, re-initialised and dropped; None where the names of
            either side are unknown.
        notes: what else there is to know, in sentences.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    classes: ClassMapping | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def table(self) -> str:
        """Each class of model and file: kept, re-initialised or dropped. Without names, a
        sentence.
        """
        if self.classes is not None:
            return self.classes.table()
        if self.reinitialised:
            return "classes without names: all head rows re-initialised"
        return "classes without names: head rows kept in their order"

    def __str__(self) -> str:
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "re-initialised for other classes": self.reinitialised,
        }
        parts = [f"{len(names)} {kind} ({some(names)})" for kind, names in kinds.items() if names]
        tensors = (
            f"weights loaded; tensors {'; '.join(parts)}"
            if parts
            else "weights loaded, all tensors fit"
        )
        other = (
            [str(self.classes)] if self.classes is not None and not self.classes.identical else []
        )
        return "; ".join([tensors, *other, *self.notes])


def fill(
    model: Detector,
    state: StateDict,
    where: str,
    *,
    categories: Sequence[Category] | None = None,
    source_categories: Sequence[Category] | None = None,
    notes: Sequence[str] = (),
) -> LoadReport:
    """Copy ``state`` into ``model`` and log what did not fit.

    Args:
        state: of the official layout.
        where: what to call it in messages.
        categories: classes of the model; None: not known, so equal numbers of classes are taken to
            be the same ones.
        source_categories: classes of the state; None: not known.
        notes: for the report.

    Raises:
        WeightsError: it is of another size or family, holds values that aren't finite, or has
            another number of classes than names.
    """
    given = {
        key: value
        for key, value in state.items()
        if not is_derived(key) and not model.is_left_out(key)
    }
    wanted = model.state_dict()
    _take_copied(given, state, wanted, where)
    shared = given.keys() & wanted.keys()
    of_classes = {
        key
        for key in shared
        if is_of_classes(key) and given[key].shape[1:] == wanted[key].shape[1:]
    }
    wrong = sorted(key for key in shared - of_classes if given[key].shape != wanted[key].shape)
    missing = [key for key in wanted if key not in given and not is_optional(key)]
    unexpected = [key for key in given if key not in wanted and not is_optional(key)]
    _refuse_foreign(model, state, where, wrong, missing, unexpected)
    _refuse_not_finite({key: given[key] for key in shared}, where)
    mapping, rows = _rows(model, given, where, categories, source_categories)
    notes = [*notes, *_left_out(model, state)]
    if categories is None and source_categories is not None and None not in rows:
        notes.append(
            f"head rows kept in order, as of the file's classes "
            f"{some(names_of(source_categories))}: categories would say whether "
            "the model's are the same"
        )

    with torch.no_grad():
        for key in shared - of_classes:
            wanted[key].copy_(given[key])
        _fill_classes(model, {key: given[key] for key in of_classes}, rows)
    changed = tuple(key for key in wanted if key in of_classes) if None in rows else ()
    report = LoadReport(tuple(missing), tuple(unexpected), changed, mapping, tuple(notes))
    _announce(report, where)
    return report


def _take_copied(given: dict[str, Tensor], state: StateDict, wanted: StateDict, where: str) -> None:
    """The shape of W(n), which stands at two places and in two types; where it differs, the file's
    counts.
    """
    for key in (f"decoder.{name}" for name in COPIED):
        value = given.get(key, state.get(f"decoder.{key}"))
        if value is not None and key in wanted:
            given[key] = value.reshape(1)
            if float(value) != float(wanted[key]):
                _log.warning(
                    "%s: %s is %g in the file and %g in the model's config; the file's is used",
                    where,
                    key,
                    value,
                    wanted[key],
                )


def _refuse_not_finite(state: StateDict, where: str) -> None:
    for key in sorted(state):
        if state[key].is_floating_point() and not bool(state[key].isfinite().all()):
            raise WeightsError(
                f"{where}: {key} holds values that are not finite; the training that wrote it had "
                f"diverged"
            )


def _left_out(model: Detector, state: StateDict) -> list[str]:
    """A note on tensors of backbone stages that the model doesn't build."""
    names = [key for key in state if model.is_left_out(key)]
    if not names:
        return []
    return [
        f"{len(names)} tensors of backbone stages deeper than model.backbone_stages are left out "
        f"({some(names)})"
    ]


def _rows(
    model: Detector,
    given: StateDict,
    where: str,
    categories: Sequence[Category] | None,
    source_categories: Sequence[Category] | None,
) -> tuple[ClassMapping | None, tuple[int | None, ...]]:
    """The mapping of classes, where names are known, and for each class of the model its row in the
    file.
    """
    head = given.get("decoder.enc_score_head.weight")
    count = model.num_classes if head is None else len(head)
    for key, value in given.items():
        if is_of_classes(key) and len(value) != count + key.endswith(
            "denoising_class_embed.weight"
        ):
            raise WeightsError(
                f"{where}: {key} has {len(value)} rows, while decoder.enc_score_head is of {count} "
                f"classes"
            )
    if source_categories is not None and len(source_categories) != count:
        raise WeightsError(
            f"{where}: its heads are of {count} classes, but {len(source_categories)} names "
            f"({some(names_of(source_categories))}) "
            "are given; expected those of the classes that it was trained on, in their order"
        )
    if categories is not None and len(categories) != model.num_classes:
        raise WeightsError(
            f"{len(categories)} categories for a model of {model.num_classes} classes"
        )
    if categories is None:
        return None, tuple(range(count)) if count == model.num_classes else (
            None,
        ) * model.num_classes
    if source_categories is None:
        mapping = ClassMapping(names_of(categories), (), (None,) * len(categories))
    else:
        mapping = match_classes(categories, source_categories)
    return mapping, mapping.rows


def _fill_classes(model: Detector, given: StateDict, rows: Sequence[int | None]) -> None:
    """Rows of the score heads and of the denoising embedding: a class's own row of the file, else
    the initial value of a new model.
    """
    if None in rows:
        for name in sorted({key.rpartition(".")[0] for key in given}):
            module = model.get_submodule(name)
            assert isinstance(module, (nn.Linear, nn.Embedding))
            module.reset_parameters()
            if isinstance(module, nn.Linear):
                model.decoder.initialise_score(module)
    mine = [index for index, row in enumerate(rows) if row is not None]
    theirs = [row for row in rows if row is not None]
    state: dict[str, Tensor] = model.state_dict()
    for key, value in given.items():
        state[key][mine] = value[theirs].to(state[key])
        if key.endswith("denoising_class_embed.weight") and None not in rows:
            state[key][-1] = value[-1].to(state[key])  # the padding row


def _announce(report: LoadReport, where: str) -> None:
    if report.classes is not None and not report.classes.identical:
        _log.log(
            logging.WARNING if report.reinitialised else logging.INFO,
            "%s:\n%s",
            where,
            report.table(),
        )
        if (text := report.classes.warning()) is not None:
            _log.warning("%s: %s", where, text)
    exact = report == LoadReport() and not report.notes
    _log.log(logging.INFO if exact else logging.WARNING, "%s: %s", where, report)


def _refuse_foreign(
    model: Detector,
    state: StateDict,
    where: str,
    wrong: list[str],
    missing: list[str],
    unexpected: list[str],
) -> None:
    mine = model.state_dict()
    foreign = len(missing) > _FOREIGN_SHARE * len(mine) or len(unexpected) > _FOREIGN_SHARE * len(
        state
    )
    if not wrong and not foreign:
        return
    detail = (
        f"of {len(mine)} tensors {len(missing)} are missing ({some(missing)}), "
        f"{len(unexpected)} are unexpected ({some(unexpected)})"
    )
    if wrong:
        shapes = (
            f"{list(state[wrong[0]].shape)} in the file, {list(mine[wrong[0]].shape)} in the model"
        )
        detail = f"{len(wrong)} tensors have another shape, such as {wrong[0]}: {shapes}"
    raise WeightsError(
        f"{where} is of another model: it looks like {describe(state)}, while this model is "
        f"{describe(mine)}; {detail}"
    )
