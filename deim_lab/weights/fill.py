"""Copy tensors of the official layout into a model, and report tensors that do not fit.

Head rows are matched by class name. The model is changed only after all checks have passed.
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

# Above this share of missing or unexpected keys, the file is treated as one of another model. Below
# it, the file may have a few more or fewer parts.
_FOREIGN_SHARE = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors that were not copied unchanged from file to model.

    Reports are equal if their tensors are equal.

    Attributes:
        missing: tensors that only the model has; they keep their values.
        unexpected: tensors that only the file has; they are not used.
        reinitialised: tensors with rows of classes that the file lacks. Such rows have their
            initial values (in score heads the focal prior).
        classes: classes whose head rows were kept, re-initialised and dropped; None if the names
            of the model's or the file's classes are unknown.
        notes: further remarks, in sentences.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    classes: ClassMapping | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def table(self) -> str:
        """A table of all classes: kept, re-initialised or dropped. Without names, a sentence."""
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
    """Copy ``state`` into ``model``, and log the tensors that did not fit.

    Args:
        state: tensors in the official layout.
        where: name of the state in messages.
        categories: classes of the model; None: unknown, so equal numbers of classes are assumed to
            be the same classes.
        source_categories: classes of the state; None: unknown.
        notes: notes for the report.

    Raises:
        WeightsError: the state is of another size or family, holds values that aren't finite, or
            its number of classes differs from the number of names.
    """
    given = {
        key: value
        for key, value in state.items()
        if not is_derived(key) and not model.is_left_out(key)
    }
    expected = model.state_dict()
    _take_copied(given, state, expected, where)
    shared = given.keys() & expected.keys()
    of_classes = {
        key
        for key in shared
        if is_of_classes(key) and given[key].shape[1:] == expected[key].shape[1:]
    }
    wrong = sorted(key for key in shared - of_classes if given[key].shape != expected[key].shape)
    missing = [key for key in expected if key not in given and not is_optional(key)]
    unexpected = [key for key in given if key not in expected and not is_optional(key)]
    _refuse_foreign(model, state, where, wrong, missing, unexpected)
    _refuse_not_finite({key: given[key] for key in shared}, where)
    mapping, rows = _rows(model, given, where, categories, source_categories)
    notes = [*notes, *_left_out(model, state)]
    if categories is None and source_categories is not None and None not in rows:
        notes.append(
            f"head rows are kept in the order of the file's classes "
            f"({some(names_of(source_categories))}); give categories to match them by name"
        )

    with torch.no_grad():
        for key in shared - of_classes:
            expected[key].copy_(given[key])
        _fill_classes(model, {key: given[key] for key in of_classes}, rows)
    changed = tuple(key for key in expected if key in of_classes) if None in rows else ()
    report = LoadReport(tuple(missing), tuple(unexpected), changed, mapping, tuple(notes))
    _announce(report, where)
    return report


def _take_copied(
    given: dict[str, Tensor], state: StateDict, expected: StateDict, where: str
) -> None:
    """Take the parameters of W(n) from the file.

    The file has them at two places and in two types. The file's values replace different values of
    the model, with a warning.
    """
    for key in (f"decoder.{name}" for name in COPIED):
        value = given.get(key, state.get(f"decoder.{key}"))
        if value is not None and key in expected:
            given[key] = value.reshape(1)
            if float(value) != float(expected[key]):
                _log.warning(
                    "%s: %s is %g in the file and %g in the model's config. The file's value is "
                    "used",
                    where,
                    key,
                    value,
                    expected[key],
                )


def _refuse_not_finite(state: StateDict, where: str) -> None:
    for key in sorted(state):
        if state[key].is_floating_point() and not bool(state[key].isfinite().all()):
            raise WeightsError(
                f"{where}: {key} holds values that are not finite. The training that wrote the "
                f"file had diverged"
            )


def _left_out(model: Detector, state: StateDict) -> list[str]:
    """Note the tensors of backbone stages that the model doesn't build."""
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
    """The mapping of classes (None without names), and the file's row of each model class."""
    head = given.get("decoder.enc_score_head.weight")
    count = model.num_classes if head is None else len(head)
    for key, value in given.items():
        if is_of_classes(key) and len(value) != count + key.endswith(
            "denoising_class_embed.weight"
        ):
            raise WeightsError(
                f"{where}: {key} has {len(value)} rows, but decoder.enc_score_head has {count} "
                f"classes"
            )
    if source_categories is not None and len(source_categories) != count:
        raise WeightsError(
            f"{where}: the heads have {count} classes, but {len(source_categories)} names "
            f"({some(names_of(source_categories))}) are given. Expected the names of the training "
            f"classes, in their order"
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
    """Fill the rows of the score heads and of the denoising embedding.

    A class gets its row of the file, or else the initial values of a new model.
    """
    if None in rows:
        for name in sorted({key.rpartition(".")[0] for key in given}):
            module = model.get_submodule(name)
            assert isinstance(module, (nn.Linear, nn.Embedding))
            module.reset_parameters()
            if isinstance(module, nn.Linear):
                model.decoder.initialise_score(module)
    model_rows = [index for index, row in enumerate(rows) if row is not None]
    file_rows = [row for row in rows if row is not None]
    state: dict[str, Tensor] = model.state_dict()
    for key, value in given.items():
        state[key][model_rows] = value[file_rows].to(state[key])
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
    expected = model.state_dict()
    foreign = len(missing) > _FOREIGN_SHARE * len(expected) or len(
        unexpected
    ) > _FOREIGN_SHARE * len(state)
    if not wrong and not foreign:
        return
    detail = (
        f"of {len(expected)} tensors {len(missing)} are missing ({some(missing)}), "
        f"{len(unexpected)} are unexpected ({some(unexpected)})"
    )
    if wrong:
        in_file, in_model = list(state[wrong[0]].shape), list(expected[wrong[0]].shape)
        shapes = f"{in_file} in the file, {in_model} in the model"
        detail = f"{len(wrong)} tensors have another shape, such as {wrong[0]}: {shapes}"
    raise WeightsError(
        f"{where} is of another model: it looks like {describe(state)}, while this model is "
        f"{describe(expected)}; {detail}"
    )
