"""detector/queries.py: anchors, and query groups from attention to losses and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deim_lab.config import Config, LossConfig, MatchConfig
from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.queries import attend_in_groups, make_anchors
from deim_lab.errors import ConfigError
from deim_lab.losses import criterion
from deim_lab.losses.criterion import LossTable
from deim_lab.matching import assign
from deim_lab.structures import DecoderOutput, DetectorOutput, Targets
from deim_lab.weights.own import load_detector, load_official, official_state_dict, save_weights
from official import unit_ops

pytestmark = pytest.mark.numeric

K, Q = 3, 30
GROUPED = preset("smoke", {"match.kind": f"groups({K})"})


@pytest.fixture
def models() -> tuple[Detector, Detector]:
    """One group and ``K`` groups, of one seed, with weights of some size everywhere."""
    built: list[Detector] = []
    for config in (preset("smoke"), GROUPED):
        torch.manual_seed(0)
        model = build_detector(config, 3)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "group_embed" not in name:
                    parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        built.append(
            model.double()
        )  # in float32 two queries of nearly equal scores may change places
    return built[0], built[1]


def images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 96, 96, generator=torch.Generator().manual_seed(2)).double()


def targets() -> Targets:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.2, 0.3, 0.1, 0.2], [0.7, 0.6, 0.2, 0.2]])
    return Targets.from_lists([boxes, boxes[:1]], [torch.tensor([0, 2, 1]), torch.tensor([1])])


def trained(model: Detector) -> DetectorOutput:
    torch.manual_seed(3)  # the denoising draws
    output = model.train()(images(), targets())
    assert isinstance(output, DetectorOutput)
    return output


def test_inference_is_that_of_one_group_with_the_same_weights(
    models: tuple[Detector, Detector],
) -> None:
    one, many = models
    report = many.load_state_dict(one.state_dict(), strict=False)
    assert report.missing_keys == ["decoder.group_embed.weight"]
    with torch.no_grad():
        for here, there in ((one.eval(), many.eval()), (one.deploy(), many.deploy())):
            alone, grouped = here(images()), there(images())
            assert torch.equal(alone.logits, grouped.logits)
            assert torch.equal(alone.boxes_cxcywh, grouped.boxes_cxcywh)
    assert not any("group" in name for name in many.deploy().state_dict())


def test_one_seed_gives_one_initialisation_and_the_price_is_k_minus_one_vectors() -> None:
    states = []
    for config in (preset("smoke"), GROUPED):
        torch.manual_seed(5)
        states.append(build_detector(config, 3).state_dict())
    one, many = states
    assert all(torch.equal(one[name], many[name]) for name in one)
    assert (
        sum(v.numel() for v in many.values()) - sum(v.numel() for v in one.values())
        == (K - 1) * GROUPED.model.decoder_dim
    )


def test_the_first_group_and_the_denoising_train_as_if_alone(
    models: tuple[Detector, Detector],
) -> None:
    alone, grouped = (trained(model) for model in models)
    assert grouped.matching.groups == K
    assert grouped.matching.logits.shape[2] == K * Q
    assert alone.denoising is not None
    assert grouped.denoising is not None
    for here, there, first in (
        (alone.matching, grouped.matching, Q),
        (alone.denoising, grouped.denoising, None),
    ):
        for name in ("logits", "boxes_cxcywh", "corners"):
            torch.testing.assert_close(
                getattr(here, name), getattr(there, name)[:, :, :first], rtol=0, atol=1e-9
            )
    assert torch.equal(grouped.prediction.logits, grouped.matching.logits[-1, :, :Q])
    assert not torch.allclose(
        grouped.matching.logits[-1, :, :Q], grouped.matching.logits[-1, :, Q : 2 * Q], atol=1e-3
    ), "groups differ"


def test_groups_do_not_see_one_another(models: tuple[Detector, Detector]) -> None:
    output = trained(models[1])
    weight = models[1].decoder.group_embed.weight
    for group in range(K):
        mine = output.matching.logits[-1, :, group * Q : (group + 1) * Q].square().sum()
        (gradient,) = torch.autograd.grad(mine, weight, retain_graph=True)
        assert gradient.abs().sum(-1).gt(0).tolist() == [row == group - 1 for row in range(K - 1)]


def isolate_groups(
    mask: Tensor | None, num_queries: int, groups: int, *, device: torch.device
) -> Tensor:
    """What attention in groups means, as one mask: True where a query (row) may *not* attend.

    Args:
        mask: ``[N + Q, N + Q]`` of the denoising queries and the first group, or ``None``
            (``N = 0``, all attend). It stays as it is: denoising queries see the first group alone,
            as they would without groups.

    Returns:
        ``[N + k·Q, N + k·Q]``: a further group sees only itself, and nobody sees it.
    """
    first = num_queries if mask is None else mask.shape[0]
    block = torch.cat(
        [
            torch.zeros(first, dtype=torch.int64, device=device),
            torch.arange(1, groups, device=device).repeat_interleave(num_queries),
        ]
    )
    result = block[:, None] != block
    if mask is not None:
        result[:first, :first] = mask
    return result


@pytest.mark.parametrize("denoising", [0, 6])
def test_folded_groups_attend_as_the_mask_says(denoising: int) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).double()
    placed, content = torch.randn(
        2, 2, denoising + K * 5, 16, generator=generator, dtype=torch.float64
    ).requires_grad_()
    mask = None
    if denoising:
        mask = torch.rand(denoising + 5, denoising + 5, generator=generator) < 0.3
        mask[torch.arange(denoising + 5), torch.arange(denoising + 5)] = False
    whole = isolate_groups(mask, 5, K, device=torch.device("cpu"))
    folded = attend_in_groups(attention, placed, content, mask, 5)
    masked = attention(placed, placed, content, attn_mask=whole, need_weights=False)[0]
    torch.testing.assert_close(folded, masked, rtol=0, atol=1e-12)
    for here, there in zip(
        *(
            torch.autograd.grad(result.square().sum(), (placed, content), retain_graph=True)
            for result in (folded, masked)
        ),
        strict=True,
    ):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_no_mask_over_all_groups_is_made(models: tuple[Detector, Detector]) -> None:
    sides: list[int] = []

    def note(module: nn.Module, args: object, kwargs: dict[str, Tensor | None]) -> None:
        mask = kwargs.get("attn_mask")
        sides.append(0 if mask is None else len(mask))

    for layer in models[1].get_submodule("decoder.decoder.layers").children():
        layer.get_submodule("self_attn").register_forward_pre_hook(note, with_kwargs=True)
    output = trained(models[1])
    assert output.denoising is not None
    assert max(sides) == output.denoising.logits.shape[2] + Q
    with torch.no_grad():
        sides.clear()
        models[1].eval().every_level(images())
    assert set(sides) == {0}


def test_the_mask_of_groups() -> None:
    denoising = torch.tensor(
        [[False, True, False], [True, False, False], [True, True, False]]
    )  # two denoising queries, one query
    mask = isolate_groups(denoising, 1, 3, device=torch.device("cpu"))
    assert mask.int().tolist() == [
        [0, 1, 0, 1, 1],
        [1, 0, 0, 1, 1],
        [1, 1, 0, 1, 1],
        [1, 1, 1, 0, 1],
        [1, 1, 1, 1, 0],
    ]
    assert (
        isolate_groups(None, 2, 2, device=torch.device("cpu")).int().tolist()
        == [[0, 0, 1, 1]] * 2 + [[1, 1, 0, 0]] * 2
    )


def table_of(
    output: DetectorOutput, wanted: Targets, loss: LossConfig, match: MatchConfig
) -> LossTable:
    matches = assign(output, wanted, match)
    return criterion.compute(output, wanted, matches, loss=loss, match=match)


def test_equal_groups_lose_what_one_group_loses(models: tuple[Detector, Detector]) -> None:
    """With no embedding all groups are one another's copies; every term is a mean over groups, so
    none changes.
    """
    one, many = models
    torch.nn.init.zeros_(many.decoder.group_embed.weight)
    for go_union in (True, False):
        loss = LossConfig(go_union=go_union)
        alone = table_of(trained(one), targets(), loss, MatchConfig())
        grouped = table_of(trained(many), targets(), loss, GROUPED.match)
        assert grouped.as_dict() == pytest.approx(alone.as_dict(), rel=1e-6)
        assert grouped.positives_per_image == K * alone.positives_per_image == K * 2
        assert grouped.unmatched_targets == 0


def test_more_targets_than_queries_of_a_group() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = Targets.from_lists(
        [0.2 + 0.5 * torch.rand(9, 4, generator=generator)], [torch.zeros(9, dtype=torch.int64)]
    )
    level = DecoderOutput(
        ("encoder", "layer_0"),
        torch.randn(2, 1, 2 * 5, 3),
        0.2 + 0.5 * torch.rand(2, 1, 2 * 5, 4),
        groups=2,
    )
    table = table_of(DetectorOutput(level), wanted, LossConfig(), MatchConfig(kind="groups(2)"))
    assert table.positives_per_image == 10
    assert table.unmatched_targets == 9 - len(set(table.matches.of_level(1).target.tolist()))


@pytest.mark.parametrize(
    ("built", "asked"),
    [("hungarian", f"groups({K})"), (f"groups({K})", "hungarian"), (f"groups({K})", "groups(2)")],
)
def test_a_detector_of_another_number_of_groups_is_refused(built: str, asked: str) -> None:
    output = trained(build_detector(preset("smoke", {"match.kind": built}), 3).double())
    with pytest.raises(ConfigError, match=r"query groups"):
        assign(output, targets(), MatchConfig(kind=asked))


def test_every_level_without_training(models: tuple[Detector, Detector]) -> None:
    model = models[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        output, prediction = model.every_level(images()), model(images())
    assert output.matching.levels == ("encoder", "pre", "layer_0", "layer_1")
    assert output.denoising is None
    assert output.matching.groups == K
    torch.testing.assert_close(output.prediction.logits, prediction.logits)
    torch.testing.assert_close(output.prediction.boxes_cxcywh, prediction.boxes_cxcywh)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    with pytest.raises(ValueError, match="deploy form"):
        model.deploy().every_level(images())


def test_official_layout_and_files_of_a_model_with_groups(
    models: tuple[Detector, Detector], tmp_path: Path
) -> None:
    one, many = (model.float() for model in models)
    assert list(official_state_dict(many)) == list(official_state_dict(one))
    report = load_official(many, official_state_dict(one))
    assert report.missing == ("decoder.group_embed.weight",)
    assert not report.unexpected
    categories = [{"id": index, "name": str(index)} for index in range(3)]
    for model in (many, many.deploy()):
        save_weights(tmp_path / "weights.pt", model, config=GROUPED, categories=categories)
        loaded = load_detector(tmp_path / "weights.pt")
        assert isinstance(loaded.config, Config)
        assert loaded.config == GROUPED
        with torch.no_grad():
            assert torch.equal(
                loaded.model(images().float()).logits, model.eval()(images().float()).logits
            )


def test_anchors_parity() -> None:
    anchors, valid = make_anchors([(4, 6), (2, 3)])
    np.testing.assert_allclose(anchors, unit_ops()["anchors_4x6_2x3"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(valid, unit_ops()["valid_4x6_2x3"])
    anchors, valid = make_anchors([(80, 80), (40, 40), (20, 20)])
    assert [int(valid.sum()), valid.numel()] == unit_ops()["valid_640_counts"].tolist()
    np.testing.assert_array_equal(np.packbits(valid.flatten()), unit_ops()["valid_640_packed"])
    rows = [0, 81, 3240, 6399, 6400, 8399]
    np.testing.assert_allclose(
        anchors[0, rows], unit_ops()["anchors_640_rows_0_81_3240_6399_6400_8399"], rtol=0, atol=1e-6
    )
