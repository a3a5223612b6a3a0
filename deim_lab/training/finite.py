"""Stop at the first loss that is inf or NaN, and write a file that reproduces it."""

from __future__ import annotations

import math

from deim_lab.errors import NonFiniteError
from deim_lab.losses.criterion import LossTable
from deim_lab.structures import Batch
from deim_lab.training import checkpoint
from deim_lab.training.state import State


def finite_losses(state: State, batch: Batch, table: LossTable) -> dict[str, float]:
    """The losses of one batch as Python floats.

    Raises:
        NonFiniteError: a loss is inf or NaN. Names the term and the images.
    """
    losses = table.as_dict()
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad:
        return losses
    term = next((name for name in bad if name != "total"), "total")
    repro = state.run.folder / f"repro_step_{state.step:07d}_rank_{state.compute.rank}.pt"
    content = {
        "model": state.model.state_dict(),
        "images": batch.images,
        "boxes_cxcywh": batch.targets.boxes_cxcywh,
        "labels": batch.targets.labels,
        "image_index": batch.targets.image_index,
        "image_ids": list(batch.targets.image_ids),
        "losses": losses,
        "epoch": state.epoch,
        "step": state.step,
    }
    checkpoint.save(repro, state.description() | content)
    raise NonFiniteError(
        f"loss {term} is {losses[term]} at epoch {state.epoch}, step {state.step}, images "
        f"{list(batch.targets.image_ids)}. The batch and the weights are in {repro}. Try "
        f"train.precision=fp32 or a lower optim.lr (now {state.config.optim.lr:g})",
        image_ids=batch.targets.image_ids,
        term=term,
        repro=str(repro),
    )
