"""Tables of entries: names, clashes, defaults, and what a wrong function is told."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deim_lab import augment, config as configs, detector, losses, matching, palette
from deim_lab.augment.pipeline import Pipeline
from deim_lab.config import LossConfig, MatchConfig, ModelConfig, preset
from deim_lab.detector.backbones import build_backbone
from deim_lab.errors import ConfigError
from deim_lab.losses import criterion
from deim_lab.schedule import Phase
from deim_lab.structures import DecoderOutput, DetectorOutput, Matches, Scene, Targets
from deim_lab.study.gradients.curves import loss_and_gradient
from loss_functions import plain, with_gamma

pytestmark = pytest.mark.usefixtures("as_before")


def output(images: int = 2, queries: int = 4, classes: int = 3) -> DetectorOutput:
    torch.manual_seed(0)
    levels = ("encoder", "layer_0")
    return DetectorOutput(
        DecoderOutput(
            logits=torch.randn(len(levels), images, queries, classes),
            boxes_cxcywh=torch.rand(len(levels), images, queries, 4) * 0.4 + 0.2,
            levels=levels,
        )
    )


def two_targets() -> Targets:
    boxes = torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2]])
    return Targets.from_lists(
        [boxes[:1], boxes[1:]], [torch.tensor([0]), torch.tensor([2])], [7, 8]
    )


def defaults(function: Any) -> dict[str, Any]:
    """Keyword-only arguments and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {item.name: item.default for item in parameters if item.kind is item.KEYWORD_ONLY}


def test_defaults_have_one_home() -> None:
    for name, table in (("mal", losses.mal), ("vfl", losses.vfl), ("focal", losses.focal)):
        entry = losses.CLASSIFICATION[name]
        assert defaults(table) == {"gamma": entry.gamma, "alpha": entry.alpha}
        loss = LossConfig(classification=name)
        assert loss.options == {"gamma": entry.gamma, "alpha": entry.alpha}
    costs = defaults(matching.costs)
    assert costs == {name: getattr(MatchConfig, name) for name in costs}


def test_a_term_takes_its_defaults_from_the_signature() -> None:
    losses.CLASSIFICATION["mine"] = losses.Term(with_gamma)
    assert LossConfig(classification="mine").options == {"gamma": 3.0}
    assert LossConfig(classification="mine", gamma=1.0).options == {"gamma": 1.0}
    losses.CLASSIFICATION["mine"] = losses.Term(with_gamma, gamma=2.5)
    assert LossConfig(classification="mine").options == {"gamma": 2.5}
    losses.CLASSIFICATION["simple"] = losses.Term(plain)
    assert LossConfig(classification="simple").options == {}
    with pytest.raises(ConfigError, match=r"loss.gamma 2.0 would have no effect.*takes no gamma"):
        preset("smoke", {"loss.classification": "simple", "loss.gamma": 2.0})
    with pytest.raises(ValueError, match=r"gamma 2\.0 would have no effect"):
        loss_and_gradient("simple", 0.5, 0.5, gamma=2.0)
    with pytest.raises(ConfigError, match=r"alpha=0\.5 would have no effect"):
        losses.Term(with_gamma, alpha=0.5)
    with pytest.raises(ConfigError, match="no default for 'gamma'"):
        losses.Term(lambda logits, target, iou, gamma: logits)


@pytest.mark.parametrize("name", ["", "Mine", "a b", "1st", "größe", 3])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not a valid name"):
        losses.CLASSIFICATION[name] = losses.Term(plain)


def test_names_of_the_lab_stay() -> None:
    for change in (
        lambda: losses.CLASSIFICATION.__setitem__("mal", losses.Term(plain)),
        lambda: losses.CLASSIFICATION.__delitem__("mal"),
    ):
        with pytest.raises(ConfigError, match=r"built.in"):
            change()
    assert losses.CLASSIFICATION["mal"].function is losses.mal


def test_the_nearest_name_is_proposed() -> None:
    losses.CLASSIFICATION["quality"] = losses.Term(plain)
    with pytest.raises(ConfigError, match=r"did you mean 'quality'.*train\.plugins"):
        preset("smoke", {"loss.classification": "qualty"})
    with pytest.raises(ConfigError, match=r"match.kind 'simoto' is not one of.*'simota'.*plugins"):
        preset("smoke", {"match.kind": "simoto"})


def test_an_added_loss_is_what_trains() -> None:
    losses.CLASSIFICATION["mine"] = losses.Term(with_gamma, gamma=2.0)
    loss, match = LossConfig(classification="mine", go_union=False), MatchConfig()
    made, targets = output(), two_targets()
    matches = matching.assign(made, targets, match)
    table = criterion.compute(made, targets, matches, loss=loss, match=match)
    target = torch.zeros_like(made.matching.logits)
    target[matches.level, matches.image, matches.query, targets.labels[matches.target]] = 1
    expected = 2.0 * (made.matching.logits.sigmoid() - target).square().sum((1, 2, 3)) / 2
    torch.testing.assert_close(table.terms["class"], expected)


@pytest.mark.parametrize(
    "wrong", [lambda logits, target, iou: logits.sum(), lambda logits, target, iou: 3.0]
)
def test_a_loss_of_another_shape_is_refused(wrong: Any) -> None:
    losses.CLASSIFICATION["wrong"] = losses.Term(wrong)
    made, targets, match = output(), two_targets(), MatchConfig()
    matches = matching.assign(made, targets, match)
    with pytest.raises(ConfigError, match=r"'wrong' returned a .*Expected the loss of each query"):
        criterion.compute(
            made, targets, matches, loss=LossConfig(classification="wrong"), match=match
        )


def first_query(logits: Tensor, boxes: Tensor, targets: Targets, match: MatchConfig) -> Matches:
    """Query ``argument`` of each image learns from its first target, at every level."""
    levels, images = logits.shape[:2]
    level = torch.arange(levels).repeat_interleave(images)
    image = torch.arange(images).repeat(levels)
    query = torch.full_like(image, match.argument or 0)
    return Matches(image, query, image.clone(), level)


def test_an_added_matching_is_divided_as_it_says() -> None:
    matching.KINDS["first"] = matching.Kind(first_query, argument=(0, 3), divided_by="pairs")
    match = MatchConfig(kind="first(2)")
    assert (match.name, match.argument, match.groups) == ("first", 2, 1)
    matches = matching.assign(output(), two_targets(), match)
    assert matches.query.tolist() == [2, 2, 2, 2]
    count = {
        "num_targets": 9.0,
        "pairs_by_level": [2, 2],
        "pairs_of_union": None,
        "device": torch.device("cpu"),
    }
    divisors = matching.Divisors.count(match, **count)  # type: ignore[arg-type]
    assert torch.as_tensor(divisors.class_terms).tolist() == [2.0, 2.0]
    matching.KINDS["first"] = replace(matching.KINDS["first"], divided_by="targets")
    assert matching.Divisors.count(match, **count).class_terms == 9.0  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["first", "first(9)", "first(02)", "first()", "hungarian(2)"])
def test_kinds_that_are_written_wrongly(kind: str) -> None:
    matching.KINDS["first"] = matching.Kind(first_query, argument=(0, 3))
    with pytest.raises(ConfigError, match=r"match\.kind"):
        preset("smoke", {"match.kind": kind})


def test_the_late_cost_is_seen_only_late() -> None:
    seen: list[float | None] = []

    def spy(logits: Tensor, boxes: Tensor, targets: Targets, match: MatchConfig) -> Matches:
        seen.append(match.iou_power)
        return first_query(logits, boxes, targets, match)

    matching.KINDS["spy"] = matching.Kind(spy, late_cost=True)
    for late in (False, True):
        matching.assign(output(), two_targets(), MatchConfig(kind="spy", iou_power=4.0), late=late)
    assert seen == [None, 4.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": None}, "without a level axis"),
        (
            {"query": torch.tensor([9, 0, 0, 0])},
            r"Matches\.query is outside \[0, 4\)\. Its values are 0 to 9",
        ),
        (
            {"query": torch.tensor([4, 0, 0, 0])},
            r"Matches\.query is outside \[0, 4\)\. Its values are 0 to 4",
        ),
        ({"target": torch.tensor([-1, 1, 0, 1])}, r"Matches\.target is outside"),
        ({"level": torch.tensor([1, 1, 0, 0])}, "must be ordered"),
        ({"image": torch.tensor([0, 0, 0, 1])}, "A query has at most one target"),
        ({"target": torch.tensor([1, 0, 0, 1])}, "a target of another image"),
    ],
)
def test_matches_that_cannot_be(change: dict[str, Any], message: str) -> None:
    def wrong(logits: Tensor, boxes: Tensor, targets: Targets, match: MatchConfig) -> Matches:
        return replace(first_query(logits, boxes, targets, match), **change)

    matching.KINDS["wrong"] = matching.Kind(wrong)
    with pytest.raises(ConfigError, match=message):
        matching.assign(output(), two_targets(), MatchConfig(kind="wrong"))


def test_a_matching_may_leave_all_unmatched() -> None:
    def nobody(logits: Tensor, boxes: Tensor, targets: Targets, match: MatchConfig) -> Matches:
        return Matches(*torch.zeros(4, 0, dtype=torch.int64))

    matching.KINDS["nobody"] = matching.Kind(nobody)
    assert len(matching.assign(output(), two_targets(), MatchConfig(kind="nobody"))) == 0


def test_a_matching_that_returns_no_matches_is_refused() -> None:
    matching.KINDS["list"] = matching.Kind(lambda logits, boxes, targets, match: [])
    with pytest.raises(ConfigError, match="returned list without a level axis"):
        matching.assign(output(), two_targets(), MatchConfig(kind="list"))


def scene() -> Scene:
    image = torch.full((3, 40, 50), 200, dtype=torch.uint8)
    return Scene(image, torch.tensor([[5.0, 5.0, 30.0, 30.0]]), torch.tensor([1]), (3,))


def test_augmentations_run_in_their_phases_with_their_probability() -> None:
    def dark(item: Scene, generator: torch.Generator) -> Scene:
        return replace(item, image=torch.zeros_like(item.image))

    augment.OPERATIONS["dark"] = augment.Operation(dark, prob=1.0, phases=("dense", "clean"))
    chosen = preset("smoke", {"augment.extra": ["dark"], "augment.mosaic_prob": 0.0})
    pipeline = Pipeline(augment=chosen.augment, input_size=(64, 64))
    for phase, expected in ((Phase.CLEAN, True), (Phase.DENSE, True), (Phase.PLAIN, False)):
        made = pipeline.compose([scene()], 0, phase, torch.Generator().manual_seed(0))
        assert ("dark" in made.applied) == expected
        assert bool((made.image == 0).all()) == expected
    never = replace(pipeline, augment=replace(chosen.augment, extra_prob=0.0))
    made = never.compose([scene()], 0, Phase.DENSE, torch.Generator().manual_seed(0))
    assert "dark" not in made.applied


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"augment.extra": ["mosaic"]}, "Turn it on with augment.mosaic_prob"),
        ({"augment.extra": ["dark", "dark"]}, "'dark' is listed twice"),
        ({"augment.extra": ["drak"]}, "did you mean 'dark'"),
        ({"augment.extra_prob": 0.5}, "augment.extra is empty"),
        ({"augment.extra": ["dark"], "augment.extra_prob": 1.5}, r"outside \[0, 1\]"),
    ],
)
def test_augmentations_that_cannot_be(overrides: dict[str, Any], message: str) -> None:
    augment.OPERATIONS["dark"] = augment.Operation(lambda item, generator: item)
    with pytest.raises(ConfigError, match=message):
        preset("smoke", overrides)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"of": "epoch"}, "Choose image or batch"),
        ({"prob": 2.0}, r"outside \[0, 1\]"),
        ({"phases": ("dens",)}, "did you mean 'dense'"),
    ],
)
def test_operations_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        augment.Operation(lambda item, generator: item, **values)


class Body(nn.Module):
    """One convolution a stage."""

    def __init__(self, strides: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.strides, self.channels = strides, channels


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (lambda model: Body((8, 16), (8, 8)), r"has the strides \[8, 16\]. Expected \[16, 32\]"),
        (lambda model: Body((16, 32), (8,)), "Expected a torch module with one number of channels"),
        (lambda model: 3, "returned int"),
    ],
)
def test_backbones_that_cannot_be(built: Any, message: str) -> None:
    detector.BACKBONES["mine"] = detector.Backbone(built)
    with pytest.raises(ConfigError, match=message):
        build_backbone(ModelConfig(backbone="mine"))


def test_freezing_that_a_backbone_does_not_follow_is_refused() -> None:
    detector.BACKBONES["mine"] = detector.Backbone(lambda model: Body((16, 32), (8, 8)))
    with pytest.raises(ConfigError, match=r"does not support model\.freeze_backbone_norm"):
        build_backbone(ModelConfig(backbone="mine", freeze_stem=True))
    detector.BACKBONES["mine"] = replace(detector.BACKBONES["mine"], freezes=True)
    assert isinstance(build_backbone(ModelConfig(backbone="mine", freeze_stem=True)), Body)


def test_colours_of_added_entries() -> None:
    losses.CLASSIFICATION["mine"] = losses.Term(plain, colour="#123456")
    assert palette.colour("mine") == "#123456"
    losses.CLASSIFICATION["yours"] = losses.Term(plain)
    assert palette.colour("yours") in palette.OTHERS
    assert palette.dashes("mine") != palette.dashes("yours")
    with pytest.raises(ConfigError, match="colour 'red' is not #RRGGBB"):
        losses.CLASSIFICATION["third"] = losses.Term(plain, colour="red")


def test_an_entry_with_the_name_of_a_method_leaves_its_colour() -> None:
    before = palette.colour("plain"), palette.dashes("plain")
    detector.BACKBONES["plain"] = detector.Backbone(lambda model: Body((16, 32), (8, 8)))
    assert (palette.colour("plain"), palette.dashes("plain")) == before


def test_the_source_tells_bound_arguments_apart() -> None:
    losses.CLASSIFICATION["one"] = losses.Term(functools.partial(with_gamma, gamma=1.0))
    losses.CLASSIFICATION["two"] = losses.Term(functools.partial(with_gamma, gamma=2.0))
    hashes = {
        configs.fingerprint(preset("smoke", {"loss.classification": name}))
        for name in ("one", "two", "mal")
    }
    assert len(hashes) == 3
