"""Every knob, as frozen dataclasses: the one source of defaults. Override, diff, fingerprint, JSON
in and out.

An experiment arm is a plain dict of dotted overrides, ``{"loss.gamma": 2.0}``, which JSON, a
papermill parameter, a grid file, a widget and the command line can all carry. Unknown keys, wrong
types and values out of range raise ``ConfigError`` with the nearest right name. Nothing is
registered, injected or global.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from deim_lab.config.values import at_least, coerce, ordered, positive, within
from deim_lab.errors import ConfigError, nearest

Json = Any


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The detector: backbone, hybrid encoder, decoder. Defaults are DEIM-D-FINE-N's."""

    family: Literal["dfine", "rtdetrv2", "deimv2"] = (
        "dfine"  # of the decoder, and of the encoder's fuse blocks
    )
    # a name of detector.backbones: hgnetv2_*, resnet*_vd, lite0, timm:NAME, torchvision:NAME
    backbone: str = "hgnetv2_b0"
    backbone_weights: str | None = (
        # ImageNet weights that training starts from: a file, or the name of a source
        # (detector.pretrained)
        None
    )
    backbone_stages: tuple[int, ...] = (
        2,
        3,
    )  # 0-based stages handed to the encoder; strides 4·2^stage
    learnable_affine: bool = True  # HGNetV2's scalar scale and shift after each activation
    freeze_backbone_norm: bool = (
        False  # batch norm of the backbone as constants (plain D-FINE L and X)
    )
    freeze_stem: bool = False  # no gradient in the backbone's stem (plain D-FINE L and X)
    encoder: Literal["hybrid", "lite"] = (
        "hybrid"  # lite: DEIMv2's smallest sizes, two levels from one map of the backbone
    )
    hidden_dim: int = 128  # encoder channels
    encoder_ffn_dim: int = 512
    expansion: float = 0.34  # width of the encoder's fuse blocks
    depth_mult: float = 0.5  # depth of the encoder's fuse blocks
    num_heads: int = 8
    decoder_dim: int = 128
    decoder_ffn_dim: int = 512
    decoder_layers: int = 3
    eval_layers: int | None = (
        None  # decoder layers that inference runs, at most decoder_layers; None: all
    )
    # D-FINE's gate after cross-attention; False: a plain residual (DEIMv2's smallest sizes)
    gateway: bool = True
    share_box_head: bool = False  # one box head for all decoder layers (DEIMv2's smallest sizes)
    query_position: Literal["wide", "deep"] = (
        "wide"  # MLP from box to query position: 4→2d→d, or DEIM's 4→d→d→d for RT-DETRv2
    )
    decoder_points: tuple[int, ...] = (
        6,
        6,
    )  # sampling points a head takes on each level, fine to coarse
    activation: Literal["silu", "relu"] = (
        "silu"  # of the decoder: SiLU in DEIM, ReLU in plain D-FINE
    )
    num_queries: int = 300
    num_denoising: int = 100  # denoising queries aimed at (0 switches denoising off)
    max_denoising: int = (
        800  # hard cap on denoising queries: an image with more targets gets fewer of them denoised
    )
    label_noise_ratio: float = 0.5  # in [0, 1]
    box_noise_scale: float = 1.0  # ≥ 0
    reg_max: int = 32  # bins of an edge distribution, less one
    reg_scale: float = 4.0  # curvature of W(n)
    up: float = 0.5  # bound of W(n)

    def _check(self) -> None:
        at_least("model.num_queries", self.num_queries, 1)
        at_least("model.num_denoising", self.num_denoising, 0)
        at_least("model.max_denoising", self.max_denoising, 2)
        at_least("model.decoder_layers", self.decoder_layers, 1)
        if self.eval_layers is not None:
            within("model.eval_layers", self.eval_layers, 1, self.decoder_layers)
        if self.share_box_head and self.family != "deimv2":
            raise ConfigError(
                f"model.share_box_head is of model.family 'deimv2' alone, and this is "
                f"{self.family!r}"
            )
        at_least("model.reg_max", self.reg_max, 4)
        if self.reg_max % 2:
            raise ConfigError(
                f"model.reg_max {self.reg_max} must be even: W(n) has as many bins on either side "
                f"of 0"
            )
        for name in (
            "num_heads",
            "hidden_dim",
            "encoder_ffn_dim",
            "decoder_dim",
            "decoder_ffn_dim",
        ):
            at_least(f"model.{name}", getattr(self, name), 1)
        for points in self.decoder_points:
            at_least("model.decoder_points", points, 1)
        positive("model.expansion", self.expansion)
        positive("model.depth_mult", self.depth_mult)
        within("model.label_noise_ratio", self.label_noise_ratio, 0, 1)
        at_least("model.box_noise_scale", self.box_noise_scale, 0)
        positive("model.reg_scale", self.reg_scale)
        positive("model.up", self.up)
        if len(self.decoder_points) != len(self.strides):
            raise ConfigError(
                f"model.decoder_points {list(self.decoder_points)} needs one entry a level, and "
                f"model.backbone_stages "
                f"{list(self.backbone_stages)} makes {len(self.strides)} with model.encoder "
                f"{self.encoder!r}"
            )
        for name in ("hidden_dim", "decoder_dim"):
            if getattr(self, name) % self.num_heads:
                raise ConfigError(
                    f"model.{name} {getattr(self, name)} is not a multiple of model.num_heads "
                    f"{self.num_heads}"
                )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride in pixels of each level, fine to coarse."""
        added = (
            (self.backbone_stages[-1] + 1,)
            if self.encoder == "lite" and self.backbone_stages
            else ()
        )
        return tuple(4 * 2**stage for stage in (*self.backbone_stages, *added))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which classification loss, its γ and α, and the weights of all terms (official values)."""

    classification: Literal["mal", "vfl", "focal"] = "mal"
    gamma: float | None = None  # ≥ 0; None: the recipe's own (mal 1.5, vfl 2.0, focal 2.0)
    alpha: float | None = (
        # weight of negatives, in [0, 1]; None: the recipe's own (mal none, vfl 0.75, focal 0.25)
        None
    )
    weight_class: float = 1.0
    weight_l1: float = 5.0
    weight_giou: float = 2.0
    weight_fgl: float = 0.15
    weight_ddf: float = 1.5
    ddf_temperature: float = 5.0
    go_union: bool = True  # boxes and edges of all levels on the union of their matches (GO-LSD)
    giou_weighting: Literal["none", "iou", "giou"] = "none"  # weight of each pair's GIoU loss

    def _check(self) -> None:
        if self.gamma is not None:
            within("loss.gamma", self.gamma, 0, 20)
        if self.alpha is not None:
            within("loss.alpha", self.alpha, 0, 1)
        for name in ("class", "l1", "giou", "fgl", "ddf"):
            at_least(f"loss.weight_{name}", getattr(self, f"weight_{name}"), 0)
        positive("loss.ddf_temperature", self.ddf_temperature)

    @property
    def effective_gamma(self) -> float:
        """γ in force: the given one, or the classification loss's official value."""
        return (
            self.gamma
            if self.gamma is not None
            else {"mal": 1.5, "vfl": 2.0, "focal": 2.0}[self.classification]
        )

    @property
    def effective_alpha(self) -> float | None:
        """α in force: the given one, or the classification loss's official value (none for MAL)."""
        return (
            self.alpha
            if self.alpha is not None
            else {"mal": None, "vfl": 0.75, "focal": 0.25}[self.classification]
        )


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Who learns from which target: costs of one-to-one matching (official values), and its two
    one-to-many comparators.

    ``hungarian``: one query a target. ``simota``: as many as fit it well (``one_to_many``).
    ``groups(k)``: one in each of ``k`` groups of queries that don't see one another; inference has
    one group (``detector.queries``).
    """

    kind: str = "hungarian"  # hungarian | simota | groups(k) with k in [2, 20], e.g. "groups(4)"
    cost_class: float = 2.0
    cost_l1: float = 5.0
    cost_giou: float = 2.0
    alpha: float = 0.25  # focal cost
    gamma: float = 2.0  # focal cost
    iou_power: float | None = (
        # e of the late one-to-one cost −p·IoU^e (DEIMv2: 4; see schedule.late_match_share); None:
        # never
        None
    )
    # the best IoUs that add up to a target's number of queries; also the most that it can claim
    simota_candidates: int = 10
    # half side of the centre prior's square, in cells of 1/40 of the image (stride 16 at 640 px); >
    # 0
    simota_radius: float = 2.5
    simota_iou_weight: float = 3.0  # of −log IoU beside the class cost; ≥ 0

    def _check(self) -> None:
        found = re.fullmatch(r"groups\((\d+)\)", self.kind)
        if found is None and self.kind not in ("hungarian", "simota"):
            raise ConfigError(
                f"match.kind {self.kind!r} is unknown; known: hungarian, simota, groups(k) with a "
                f"number k such as "
                f"groups(4){nearest(self.kind, ['hungarian', 'simota', 'groups(4)'])}"
            )
        if found is not None and not 2 <= self.groups <= 20:
            one = "; one group is 'hungarian'" if self.groups == 1 else ""
            raise ConfigError(
                f"match.kind {self.kind!r}: the number of groups is outside [2, 20]{one}"
            )
        for name in ("cost_class", "cost_l1", "cost_giou", "simota_iou_weight"):
            at_least(f"match.{name}", getattr(self, name), 0)
        at_least("match.gamma", self.gamma, 0)
        if self.iou_power is not None:
            positive("match.iou_power", self.iou_power)
        within("match.alpha", self.alpha, 0, 1)
        at_least("match.simota_candidates", self.simota_candidates, 1)
        positive("match.simota_radius", self.simota_radius)

    @property
    def groups(self) -> int:
        """Groups of queries in training: ``k`` of ``groups(k)``, else 1."""
        return int(self.kind[7:-1]) if self.kind.startswith("groups(") else 1


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and strengths of augmentation; *when* each is on is the schedule's business."""

    mosaic_prob: float = 0.5  # a sample, in the DENSE phase
    mixup_prob: float = 0.5  # a batch, in the DENSE phase
    mosaic_tile_px: int | None = (
        None  # shorter side of a tile; None: half the input's shorter side (320 at 640)
    )
    mosaic_rotation_deg: float = 10.0
    mosaic_translate: float = 0.1  # share of the canvas
    mosaic_scale: tuple[float, float] = (0.5, 1.5)
    mixup_ratio: tuple[float, float] = (0.45, 0.55)  # range of the weight of the own image
    photometric_prob: float = 0.5
    zoom_out_prob: float = 0.5
    zoom_out_max: float = 4.0  # largest side ratio, ≥ 1
    iou_crop_prob: float = 0.8
    flip_prob: float = 0.5
    min_box_px: float = 1.0  # smaller boxes are dropped after a transform
    multiscale_repeat: int | None = (
        None  # times the base size stands among the multi-scale sizes; None: one fixed size
    )

    def _check(self) -> None:
        for name in (
            "mosaic_prob",
            "mixup_prob",
            "photometric_prob",
            "zoom_out_prob",
            "iou_crop_prob",
            "flip_prob",
        ):
            within(f"augment.{name}", getattr(self, name), 0, 1)
        at_least("augment.zoom_out_max", self.zoom_out_max, 1)
        at_least("augment.min_box_px", self.min_box_px, 0)
        within("augment.mosaic_translate", self.mosaic_translate, 0, 1)
        ordered("augment.mosaic_scale", self.mosaic_scale, 0.01, 10)
        ordered("augment.mixup_ratio", self.mixup_ratio, 0, 1)
        if self.mosaic_tile_px is not None:
            at_least("augment.mosaic_tile_px", self.mosaic_tile_px, 8)
        if self.multiscale_repeat is not None:
            at_least("augment.multiscale_repeat", self.multiscale_repeat, 1)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Batches. The data set itself is named beside the config (``--data``)."""

    batch_size: int = 32  # images a step and process
    eval_batch_size: int | None = None  # None: twice batch_size
    input_size: tuple[int, int] = (
        640,
        640,
    )  # height, width; multiples of 32 (one number means a square)
    workers: int = 4  # loader processes; 0 loads in the training process
    cache: bool = False  # keep decoded images in memory

    def _check(self) -> None:
        at_least("data.batch_size", self.batch_size, 1)
        if self.eval_batch_size is not None:
            at_least("data.eval_batch_size", self.eval_batch_size, 1)
        at_least("data.workers", self.workers, 0)
        for side in self.input_size:
            if side < 32 or side % 32:
                lower = max(32, side // 32 * 32)
                raise ConfigError(
                    f"data.input_size {list(self.input_size)}: {side} is not a multiple of 32; "
                    f"nearest: {lower} or {lower + 32}"
                )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The few numbers from which ``schedule.py`` derives every switch in time."""

    warmup_epochs: int = 4  # epochs without strong augmentation at the start
    dense_share: float = (
        0.5  # Dense O2O lasts this share of (epochs − clean tail), after the warm-up
    )
    clean_epochs: int = 12  # epochs without strong augmentation at the end
    lr_warmup_steps: int = 2000  # quadratic learning-rate warm-up
    lr_final_ratio: float = 0.5  # last learning rate / base; 1.0: constant after the warm-up
    lr_clean_epochs: int | None = (
        None  # epochs at the end with the last learning rate; None: clean_epochs
    )
    late_match_share: float = (
        0.1  # last share of the epochs, where match.iou_power is the matching cost if it is given
    )
    unscaled: bool = (
        False  # True: take the numbers as they are, also where the run is too short for them
    )
    restart_from_best: bool = (
        True  # enter the clean tail from the best weights so far, as the official recipe does
    )

    def _check(self) -> None:
        at_least("schedule.warmup_epochs", self.warmup_epochs, 0)
        at_least("schedule.clean_epochs", self.clean_epochs, 0)
        at_least("schedule.lr_warmup_steps", self.lr_warmup_steps, 0)
        within("schedule.dense_share", self.dense_share, 0, 1)
        within("schedule.lr_final_ratio", self.lr_final_ratio, 0, 1)
        within("schedule.late_match_share", self.late_match_share, 0, 1)
        if self.lr_clean_epochs is not None:
            at_least("schedule.lr_clean_epochs", self.lr_clean_epochs, 0)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its parameter groups as the official recipes make them (docs/architecture.md,
    "Official quirks").
    """

    lr: float = 8e-4
    backbone_lr: float = 4e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    # The backbone's batch norm: with the backbone (decayed), at the backbone's rate undecayed, or
    # at lr undecayed.
    backbone_norm: Literal["backbone", "undecayed", "base"] = "backbone"
    decay_bias: bool = False  # weight decay on the biases of encoder and decoder
    clip_norm: float = 0.1  # total gradient norm; 0: no clipping
    recipe_batch: int = 128  # total batch that lr was chosen for; another one is noted in the log

    def _check(self) -> None:
        positive("optim.lr", self.lr)
        at_least("optim.backbone_lr", self.backbone_lr, 0)
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.clip_norm", self.clip_norm, 0)
        for beta in self.betas:
            within("optim.betas", beta, 0, 0.999999)


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights: d(k) = decay·(1 − exp(−k / warmup_updates))."""

    decay: float = 0.9999
    warmup_updates: int = 1000

    def _check(self) -> None:
        within("ema.decay", self.decay, 0, 1)
        at_least("ema.warmup_updates", self.warmup_updates, 0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop: how long, on what, in which precision, how often it saves and evaluates."""

    epochs: int = 160
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    precision: Literal["auto", "fp32", "bf16", "fp16"] = (
        "auto"  # of the forward (matching and losses: float32); auto: bf16 on CUDA
    )
    accumulate: int = 1  # batches an optimisation step
    eval_every: int = 1  # epochs; the last one is always evaluated
    checkpoint_every: int = 1  # epochs; the last one is always saved
    checkpoint_steps: int | None = (
        None  # optimisation steps between further checkpoints inside an epoch; None: none
    )
    keep_checkpoints: Literal["last", "all"] = (
        # all: also the EMA weights of each epoch that is saved (``epoch_0003.pt``), to look back
        "last"
    )
    log_every: int = 20  # steps between lines of the step log
    threads: int | None = None  # CPU threads of torch; None: leave as it is

    def _check(self) -> None:
        for name in ("epochs", "accumulate", "eval_every", "checkpoint_every", "log_every"):
            at_least(f"train.{name}", getattr(self, name), 1)
        if self.checkpoint_steps is not None:
            at_least("train.checkpoint_steps", self.checkpoint_steps, 1)
        if self.threads is not None:
            at_least("train.threads", self.threads, 1)
        check_device(self.device)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation: EMA weights, squash to ``data.input_size``, the best ``top_k`` of queries ×
    classes.
    """

    top_k: int = 300
    backend: Literal["auto", "pycocotools", "hotcoco"] = (
        "auto"  # auto: hotcoco where installed (same numbers, faster)
    )

    def _check(self) -> None:
        at_least("eval.top_k", self.top_k, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One whole experiment but for its data set and seed. Build from a preset (``presets.preset``),
    change with ``override``.
    """

    preset: str = "deim_dfine_n"
    model: ModelConfig = field(default_factory=ModelConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check = getattr(getattr(self, item.name), "_check", None)
            if check is not None:
                check()
        of_edges = {
            "model": ("reg_max", "reg_scale", "up"),
            "loss": ("weight_fgl", "weight_ddf", "ddf_temperature"),
        }
        for section, names in of_edges.items() if self.model.family == "rtdetrv2" else ():
            for name in names:
                if (value := getattr(getattr(self, section), name)) != getattr(
                    type(getattr(self, section)), name
                ):
                    raise ConfigError(
                        f"{section}.{name} {value}: model.family 'rtdetrv2' has no edge "
                        f"distributions, so it would have no effect"
                    )
        # Multi-scale goes down to 0.75 of the shorter side in whole 32 px, the longer one in step
        # (schedule.multiscale_sizes).
        shorter = min(self.data.input_size)
        factor = (
            1.0
            if self.augment.multiscale_repeat is None
            else int(0.75 * shorter / 32) * 32 / shorter
        )
        smallest = [max(32, round(side * factor / 32) * 32) for side in self.data.input_size]
        anchors = sum(
            (smallest[0] // stride) * (smallest[1] // stride) for stride in self.model.strides
        )
        if anchors < self.model.num_queries:
            raise ConfigError(
                f"model.num_queries {self.model.num_queries} is above the {anchors} anchors of "
                f"{smallest[0]}×{smallest[1]} px (the "
                f"smallest size of data.input_size {list(self.data.input_size)}): raise the size "
                f"or lower the queries"
            )


# Where a run happens, not what it computes: outside the fingerprint. (Of weights the content
# counts, not the name: weights.start.)
NOT_IDENTITY = (
    "train.device",
    "train.threads",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "data.workers",
    "data.cache",
    "eval.backend",
    "model.backbone_weights",
)


def override(config: Config, overrides: Mapping[str, Json]) -> Config:
    """``config`` with dotted keys replaced, e.g.
    ``{"loss.gamma": 2.0, "data.input_size": [384, 640]}``.

    Raises ``ConfigError`` for an unknown key (with the nearest right name), a wrong type or a value
    out of range.
    """
    parts: dict[str, dict[str, Json]] = {}
    known = keys()
    for key, value in overrides.items():
        if key not in known:
            raise ConfigError(f"unknown config key {key!r}{nearest(key, known)}")
        section, name = key.split(".")
        kind = typing.get_type_hints(type(getattr(config, section)))[name]
        parts.setdefault(section, {})[name] = coerce(key, value, kind)
    return dataclasses.replace(
        config,
        **{
            section: dataclasses.replace(getattr(config, section), **values)
            for section, values in parts.items()
        },
    )


def keys() -> tuple[str, ...]:
    """Every dotted key that ``override`` takes."""
    return tuple(flatten(Config()))


def flatten(config: Config) -> dict[str, Json]:
    """``{"loss.gamma": …}`` for every knob, values as JSON."""
    return {
        f"{section}.{name}": value
        for section, part in to_dict(config).items()
        if isinstance(part, dict)
        for name, value in part.items()
    }


def diff(base: Config, other: Config) -> dict[str, Json]:
    """The overrides that turn ``base`` into ``other``."""
    before, after = flatten(base), flatten(other)
    return {key: value for key, value in after.items() if before[key] != value}


def fingerprint(config: Config, *extra: Json) -> str:
    """Eight hex digits of what the run computes: equal for equal experiments, whatever device or
    loader they run on.

    Knobs at their default are left out, so that a knob which a later version adds leaves the
    identity of older runs alone.
    """
    flat, defaults = flatten(config), flatten(Config())
    changed = {
        key: value
        for key, value in flat.items()
        if key not in NOT_IDENTITY and value != defaults[key]
    }
    text = json.dumps([changed, *extra], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def to_dict(config: Config) -> dict[str, Json]:
    """The resolved whole as JSON values (tuples become lists)."""
    plain: dict[str, Json] = json.loads(json.dumps(dataclasses.asdict(config)))
    return plain


def from_dict(values: Mapping[str, Json]) -> Config:
    """Inverse of ``to_dict``: equal to the config that was written. Unknown sections and keys raise
    ``ConfigError``.
    """
    sections = {item.name for item in dataclasses.fields(Config)}
    for section in values:
        if section not in sections:
            raise ConfigError(f"unknown config section {section!r}{nearest(section, sections)}")
    flat = {
        f"{section}.{name}": value
        for section, part in values.items()
        if isinstance(part, Mapping)
        for name, value in part.items()
    }
    return override(Config(preset=str(values.get("preset", Config.preset))), flat)


def parse_assignments(assignments: typing.Iterable[str]) -> dict[str, Json]:
    """``["loss.gamma=2.0", "data.input_size=[384, 640]"]`` → overrides; values are JSON, else taken
    as a plain string.
    """
    result: dict[str, Json] = {}
    for item in assignments:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"{item!r} is not KEY=VALUE")
        try:
            value = json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
        except json.JSONDecodeError:
            value = text
        result[key.strip()] = value
    return result


def check_device(device: str) -> None:
    """Raise ``ConfigError`` unless ``device`` is auto, cpu, cuda or cuda:N (whether it is there,
    ``training.compute`` finds out).
    """
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (colon and (kind != "cuda" or not index.isdigit())):
        raise ConfigError(
            f"device {device!r} is unknown; known: auto, cpu, cuda, "
            f"cuda:N{nearest(kind, ['auto', 'cpu', 'cuda'])}"
        )
