"""training/state.py: one step of the training loop against the official one, and the EMA."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deim_lab.config import Config
from deim_lab.config.presets import preset
from deim_lab.detector.detector import build_detector
from deim_lab.losses import criterion
from deim_lab.losses.criterion import LossTable
from deim_lab.matching import assign
from deim_lab.schedule import Schedule
from deim_lab.structures import Batch, DetectorOutput, Targets
from deim_lab.training import loop
from deim_lab.training.compute import Compute
from deim_lab.training.ema import Ema
from deim_lab.training.optimizer import build_optimizer
from deim_lab.training.state import State
from deim_lab.training.tally import Stopwatch
from numeric import EDGES, depth_of, float32_tolerance
from official import fill, picture
from places import REFERENCE

pytestmark = pytest.mark.numeric

CASE = json.loads(gzip.decompress((REFERENCE / "trainstep_deim_dfine_n.json.gz").read_bytes()))
ARRAYS = np.load(REFERENCE / "trainstep_deim_dfine_n.npz")
CONFIG = preset(
    "deim_dfine_n",
    {
        "model.num_denoising": CASE["num_denoising"],
        "model.num_queries": CASE["num_queries"],
        "data.input_size": CASE["input_size"],
    },
)
# The rate rises up to this step and falls right after it.
FULL_RATE_STEP = 10
SCHEDULE = Schedule(
    epochs=30,
    steps_per_epoch=1,
    dense_start=0,
    dense_end=FULL_RATE_STEP,
    clean_start=20,
    lr_warmup_steps=FULL_RATE_STEP,
    lr_final_ratio=0.5,
)
LEVELS = {
    "encoder": "enc_aux_outputs.0.",
    "pre": "pre_outputs.",
    "layer_0": "aux_outputs.0.",
    "layer_1": "aux_outputs.1.",
    "layer_2": "",
}


@dataclass(frozen=True)
class Step:
    """What one step left behind; ``before`` are the parameters before it, ``gradients`` those
    before clipping.
    """

    state: State
    output: DetectorOutput
    table: LossTable
    before: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    norm: float


def shift_scores(model: nn.Module) -> None:
    """Scores as they are before training: low."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "score_head" in name and name.endswith(".bias"):
                parameter.add_(CASE["score_bias_shift"])


def take_step(dtype: torch.dtype, folder: Path) -> Step:
    """The reference step, taken by the training loop itself."""
    model = build_detector(CONFIG, num_classes=80)
    fill(model, salt=CASE["salt"], conv_gain=CASE["conv_gain"], lin_gain=CASE["lin_gain"])
    shift_scores(model)
    model = model.to(dtype).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients: dict[str, Tensor | None] = dict.fromkeys(before)
    state = state_of(model, folder)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda leaf, name=name: gradients.update({name: leaf.grad.clone()})
            )
    outputs: list[DetectorOutput] = []
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    tables: list[LossTable] = []
    compute = criterion.compute

    def kept(*args: Any, **options: Any) -> LossTable:
        tables.append(compute(*args, **options))
        return tables[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(criterion, "compute", kept)
        result = loop._step(state, [batch_of(dtype)], Stopwatch(state.compute, on=False))
    (output,), (table,) = outputs, tables
    return Step(state, output, table, before, gradients, float(result.grad_norm))


def batch_of(dtype: torch.dtype) -> Batch:
    targets = Targets.from_lists(
        [torch.tensor(item["boxes"], dtype=dtype).reshape(-1, 4) for item in CASE["targets"]],
        [torch.tensor(item["labels"], dtype=torch.int64) for item in CASE["targets"]],
    )
    images = picture(CASE["batch"], CASE["input_size"], CASE["input_size"]).to(dtype)
    return Batch(images, targets, applied=((),) * len(images))


def state_of(model: nn.Module, folder: Path, config: Config = CONFIG) -> State:
    """A run that is about to take the one step at which the learning rate is that of the config.

    The steps before and after it have a lower one (``FULL_RATE_STEP``).
    """
    run: Any = SimpleNamespace(folder=folder)
    classes: Any = SimpleNamespace(categories=range(80))
    return State(
        config=config,
        seed=0,
        compute=Compute(torch.device("cpu"), "fp32"),
        run=run,
        train_set=classes,
        val_set=classes,
        schedule=SCHEDULE,
        model=model,
        parallel=model,
        ema=Ema(model, decay=config.ema.decay, warmup_updates=config.ema.warmup_updates),
        optimizer=build_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        emit=lambda event: None,
        step=FULL_RATE_STEP - 1,
    )


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return take_step(torch.float64, tmp_path_factory.mktemp("double"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return take_step(torch.float32, tmp_path_factory.mktemp("single"))


def test_outputs_of_every_level(double: Step) -> None:
    assert double.output.matching.levels == tuple(LEVELS)
    for level, path in enumerate(LEVELS.values()):
        boxes, logits = (
            values[level].detach().numpy()
            for values in (double.output.matching.boxes_cxcywh, double.output.matching.logits)
        )
        np.testing.assert_allclose(boxes, ARRAYS[path + "pred_boxes"], atol=2e-6, rtol=0)
        np.testing.assert_allclose(logits, ARRAYS[path + "pred_logits"], atol=2e-5, rtol=0)


def losses_of(step: Step) -> dict[str, float]:
    values = step.table.as_dict()
    return {official: values[mine] for official, mine in step.table.official_names("mal").items()}


def test_losses(double: Step) -> None:
    assert losses_of(double) == pytest.approx(CASE["losses_fp64"], rel=1e-6)
    assert float(double.table.total.detach()) == pytest.approx(CASE["total_fp64"], rel=1e-6)
    assert double.norm == pytest.approx(CASE["grad_norm_fp64"], rel=1e-5)


def test_losses_in_single_precision(single: Step) -> None:
    depth, found = depth_of(single.state.model), losses_of(single)
    assert found.keys() == CASE["losses_fp64"].keys()
    for name, expected in CASE["losses_fp64"].items():
        condition = EDGES if "fgl" in name else 1.0
        assert found[name] == pytest.approx(expected, rel=float32_tolerance(depth, condition)), name
    assert float(single.table.total.detach()) == pytest.approx(
        CASE["total_fp64"], rel=float32_tolerance(depth)
    )
    assert single.norm == pytest.approx(CASE["grad_norm_fp64"], rel=float32_tolerance(depth, EDGES))


def test_gradients(double: Step) -> None:
    assert double.gradients.keys() == CASE["grad_l2_fp64"].keys()
    for name, expected in CASE["grad_l2_fp64"].items():
        gradient = double.gradients[name]
        if expected is None:
            assert gradient is None, name
            continue
        assert gradient is not None, name
        assert float(gradient.norm()) == pytest.approx(expected, rel=1e-5, abs=1e-9), name


def test_adamw_deltas(double: Step) -> None:
    after = dict(double.state.model.named_parameters())
    rates = {
        name: group["lr"]
        for group in build_optimizer(double.state.model, CONFIG.optim).param_groups
        for name in group["names"]
    }
    checked = 0
    for name, expected in CASE["adamw_delta_first4_fp64"].items():
        if (CASE["grad_l2_fp64"][name] or 0.0) > 1e-6:
            delta = (after[name] - double.before[name]).detach().flatten()[:4]
            np.testing.assert_allclose(
                delta.numpy(), expected, atol=1e-4 * rates[name], rtol=0, err_msg=name
            )
            checked += 1
    assert checked > 200


def test_the_optimizer_gets_clipped_gradients(double: Step) -> None:
    """AdamW's first delta hardly depends on the gradient's length, its first moment does."""
    beta = CONFIG.optim.betas[0]
    assert CONFIG.optim.clip_norm is not None
    assert double.norm > 2 * CONFIG.optim.clip_norm
    for name, parameter in double.state.model.named_parameters():
        gradient = double.gradients[name]
        if gradient is not None:
            clipped = gradient * CONFIG.optim.clip_norm / (double.norm + 1e-6)
            moment = double.state.optimizer.state[parameter]["exp_avg"]
            torch.testing.assert_close(moment, (1 - beta) * clipped, rtol=1e-9, atol=1e-15)


def test_one_step_is_counted_and_leaves_no_gradient(double: Step) -> None:
    assert (double.state.step, double.state.batch) == (FULL_RATE_STEP, 1)
    assert all(parameter.grad is None for parameter in double.state.model.parameters())
    neighbours = [SCHEDULE.lr_factor(FULL_RATE_STEP + shift) for shift in (-1, 0, 1)]
    assert neighbours[0] < 1 == neighbours[1] > neighbours[2], "a shifted rate must show"


def test_the_ema_follows_the_step(double: Step) -> None:
    ema = double.state.ema
    averaged = dict(ema.module.named_parameters())
    decay = ema.decay_at(1)
    assert ema.updates == 1
    for name, parameter in double.state.model.named_parameters():
        expected = decay * double.before[name] + (1 - decay) * parameter.detach()
        torch.testing.assert_close(averaged[name].detach(), expected, rtol=1e-9, atol=1e-12)


def test_batch_norm_statistics(double: Step) -> None:
    buffers = {name: value.double() for name, value in double.state.model.state_dict().items()}
    for name, expected in CASE["bn_after_fp64"].items():
        assert float(buffers[name].mean()) == pytest.approx(expected["mean"], rel=1e-6, abs=1e-9), (
            name
        )
        np.testing.assert_allclose(
            buffers[name].flatten()[:4].numpy(),
            expected["first4"],
            rtol=1e-6,
            atol=1e-9,
            err_msg=name,
        )


@pytest.mark.parametrize("kind", ["hungarian", "groups(2)"])
def test_two_batches_of_four_are_one_of_eight(kind: str, tmp_path: Path) -> None:
    """Where sums are divided by targets. The union and DDF count each batch by itself."""
    config = preset(
        "smoke",
        {
            "match.kind": kind,
            "model.num_denoising": 0,
            "loss.go_union": False,
            "loss.weight_ddf": 0.0,
        },
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 96, 96, generator=generator, dtype=torch.float64)
    boxes = [
        0.2 + 0.5 * torch.rand(n, 4, generator=generator).double() for n in (1, 2, 0, 4, 6, 3, 0, 1)
    ]
    labels = [torch.randint(5, (len(item),), generator=generator) for item in boxes]
    norms: list[float] = []
    ends: list[dict[str, Tensor]] = []
    for size in (8, 4):
        torch.manual_seed(0)
        model = build_detector(config, num_classes=5).double()
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)  # statistics frozen
        state = state_of(model, tmp_path, config)
        parts = [slice(start, start + size) for start in range(0, 8, size)]
        batches = [
            Batch(images[part], Targets.from_lists(boxes[part], labels[part]), ((),) * size)
            for part in parts
        ]
        result = loop._step(state, batches, Stopwatch(state.compute, on=False))
        norms.append(float(result.grad_norm))
        ends.append(model.state_dict())
    assert norms[0] == pytest.approx(norms[1], rel=1e-9)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    "counts",
    [[0, 0], [0, 3], [50, 1]],
    ids=["no target at all", "an empty image", "more targets than queries"],
)
def test_awkward_batches_give_every_parameter_a_finite_gradient(counts: list[int]) -> None:
    config = preset("smoke")
    model = build_detector(config, num_classes=5).train()
    generator = torch.Generator().manual_seed(0)
    targets = Targets.from_lists(
        [0.2 + 0.3 * torch.rand(n, 4, generator=generator) for n in counts],
        [torch.randint(5, (n,), generator=generator) for n in counts],
    )
    output = model(torch.rand(2, 3, 96, 96, generator=generator), targets)
    matches = assign(output, targets, config.match)
    table = criterion.compute(output, targets, matches, loss=config.loss, match=config.match)
    table.total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert table.unmatched_targets == sum(max(n - config.model.num_queries, 0) for n in counts)
    assert ("dn_class" in table.terms) == (sum(counts) > 0)
