"""The sections of a config, as frozen dataclasses with defaults and ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from deim_lab.config.entries import CLASSIFICATION, KINDS, OPERATIONS, Term
from deim_lab.config.values import at_least, check_device, ordered, positive, within
from deim_lab.errors import ConfigError, nearest

_NUMBERED = re.compile(r"[a-z][a-z0-9_]*\((?P<number>\d+)\)")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The detector: backbone, encoder, decoder. Defaults are those of DEIM-D-FINE-N."""

    # selects the decoder and the encoder's fuse blocks
    family: Literal["dfine", "rtdetrv2", "deimv2"] = "dfine"
    # a name of detector.backbones: hgnetv2_*, resnet*_vd, lite0, timm:NAME, torchvision:NAME
    backbone: str = "hgnetv2_b0"
    # ImageNet weights at the start of training: a file, or the name of a source
    # (weights.backbone)
    backbone_weights: str | None = None
    # 0-based stages passed to the encoder; strides 4·2^stage
    backbone_stages: tuple[int, ...] = (2, 3)
    learnable_affine: bool = True  # HGNetV2's scalar scale and shift after each activation
    # keep the batch norm of the backbone constant (plain D-FINE L and X)
    freeze_backbone_norm: bool = False
    freeze_stem: bool = False  # no gradient in the backbone's stem (plain D-FINE L and X)
    # lite: two feature levels from one backbone map, in DEIMv2's smallest sizes
    encoder: Literal["hybrid", "lite"] = "hybrid"
    hidden_dim: int = 128  # encoder channels
    encoder_ffn_dim: int = 512  # only in the hybrid encoder; the lite encoder has no feed-forward
    expansion: float = 0.34  # width of the encoder's fuse blocks
    depth_mult: float = 0.5  # depth of the encoder's fuse blocks
    num_heads: int = 8
    decoder_dim: int = 128
    decoder_ffn_dim: int = 512
    decoder_layers: int = 3
    # decoder layers used in inference, at most decoder_layers; None: all
    eval_layers: int | None = None
    # D-FINE's gate after cross-attention; False: plain residual (DEIMv2's smallest sizes)
    gateway: bool = True
    share_box_head: bool = False  # one box head for all decoder layers (DEIMv2's smallest sizes)
    # MLP from box to query position; wide: 4→2d→d, deep: 4→d→d→d (DEIM on RT-DETRv2)
    query_position: Literal["wide", "deep"] = "wide"
    # sampling points per head on each feature level, fine to coarse
    decoder_points: tuple[int, ...] = (6, 6)
    # decoder activation: SiLU in DEIM, ReLU in plain D-FINE
    activation: Literal["silu", "relu"] = "silu"
    num_queries: int = 300
    num_denoising: int = 100  # aimed number of denoising queries (0 turns denoising off)
    # limit on denoising queries; in an image with more targets, not all targets get one
    max_denoising: int = 800
    label_noise_ratio: float = 0.5  # in [0, 1]
    box_noise_scale: float = 1.0  # ≥ 0
    reg_max: int = 32  # bins of an edge distribution, minus 1
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
                f"model.share_box_head needs model.family 'deimv2', but model.family is "
                f"{self.family!r}. Set model.share_box_head to false."
            )
        at_least("model.reg_max", self.reg_max, 4)
        if self.reg_max % 2:
            raise ConfigError(
                f"model.reg_max {self.reg_max} must be even. W(n) has equally many bins on both "
                f"sides of 0."
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
                f"model.decoder_points {list(self.decoder_points)} must have one entry per "
                f"feature level. model.backbone_stages {list(self.backbone_stages)} with "
                f"model.encoder {self.encoder!r} makes {len(self.strides)} feature levels."
            )
        for name in ("hidden_dim", "decoder_dim"):
            if getattr(self, name) % self.num_heads:
                raise ConfigError(
                    f"model.{name} {getattr(self, name)} is not a multiple of model.num_heads "
                    f"{self.num_heads}."
                )

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride in pixels of each feature level, fine to coarse."""
        stages = self.backbone_stages
        if self.encoder == "lite" and stages:  # the lite encoder adds a coarser one
            stages = (*stages, stages[-1] + 1)
        return tuple(4 * 2**stage for stage in stages)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The classification loss, its γ and α, and the weights of all terms (official values)."""

    classification: str = "mal"  # a name of losses.CLASSIFICATION: mal, vfl, focal, or your own
    gamma: float | None = None  # ≥ 0; None: the default in losses.CLASSIFICATION
    alpha: float | None = None  # weight of negatives, in [0, 1]; None: as gamma
    weight_class: float = 1.0
    weight_l1: float = 5.0
    weight_giou: float = 2.0
    weight_fgl: float = 0.15
    weight_ddf: float = 1.5
    ddf_temperature: float = 5.0
    go_union: bool = True  # train boxes and edges of all levels on the union of matches (GO-LSD)
    giou_weighting: Literal["none", "iou", "giou"] = "none"  # weight of each pair's GIoU loss

    def _check(self) -> None:
        CLASSIFICATION.check("loss.classification", self.classification)
        for name in ("gamma", "alpha"):
            if getattr(self, name) is not None and name not in (self.term.takes or ()):
                raise ConfigError(
                    f"loss.{name} {getattr(self, name)} would have no effect. "
                    f"loss.classification {self.classification!r} takes no {name}. Leave it out."
                )
        if self.gamma is not None:
            within("loss.gamma", self.gamma, 0, 20)
        if self.alpha is not None:
            within("loss.alpha", self.alpha, 0, 1)
        for name in ("class", "l1", "giou", "fgl", "ddf"):
            at_least(f"loss.weight_{name}", getattr(self, f"weight_{name}"), 0)
        positive("loss.ddf_temperature", self.ddf_temperature)

    @property
    def term(self) -> Term:
        """The entry of the classification loss."""
        return CLASSIFICATION[self.classification]

    @property
    def effective_gamma(self) -> float | None:
        """γ in use: ``gamma``, else the default of the classification loss; None without one."""
        return self.term.gamma if self.gamma is None else self.gamma

    @property
    def effective_alpha(self) -> float | None:
        """α in use: ``alpha``, else the default of the classification loss; None without one."""
        return self.term.alpha if self.alpha is None else self.alpha

    @property
    def options(self) -> dict[str, float | None]:
        """γ and α in use, limited to the arguments that the classification loss takes."""
        values = {"gamma": self.effective_gamma, "alpha": self.effective_alpha}
        return {name: values[name] for name in self.term.takes or ()}


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """The kind of matching between queries and targets, and its costs (official values).

    ``hungarian``: one query per target. ``simota``: all queries that fit the target well
    (``matching.simota``). ``groups(k)``: one query per target in each of ``k`` groups, which don't
    attend to one another; inference uses one group (``detector.queries``). Your own: an entry of
    ``matching.KINDS``.
    """

    kind: str = "hungarian"  # hungarian | simota | groups(k) with k in [2, 20], e.g. "groups(4)"
    cost_class: float = 2.0
    cost_l1: float = 5.0
    cost_giou: float = 2.0
    alpha: float = 0.25  # focal cost
    gamma: float = 2.0  # focal cost
    # e of the late one-to-one cost −p·IoU^e (DEIMv2: 4; see schedule.late_match_share); None: the
    # cost never changes
    iou_power: float | None = None
    # number of best IoUs whose sum is a target's number of queries; also its maximum
    simota_candidates: int = 10
    # half side of the centre prior's square, in cells of 1/40 of the image (stride 16 at 640 px)
    simota_radius: float = 2.5
    simota_iou_weight: float = 3.0  # weight of −log IoU next to the class cost; ≥ 0

    def _check(self) -> None:
        self._check_kind()
        for name in ("cost_class", "cost_l1", "cost_giou", "simota_iou_weight"):
            at_least(f"match.{name}", getattr(self, name), 0)
        at_least("match.gamma", self.gamma, 0)
        if self.iou_power is not None:
            positive("match.iou_power", self.iou_power)
        within("match.alpha", self.alpha, 0, 1)
        at_least("match.simota_candidates", self.simota_candidates, 1)
        positive("match.simota_radius", self.simota_radius)

    @property
    def name(self) -> str:
        """The entry of ``matching.KINDS``: ``kind`` without its number."""
        return self.kind.partition("(")[0]

    @property
    def argument(self) -> int | None:
        """The number ``k`` of a kind "name(k)"; None for a kind without a number."""
        numbered = _NUMBERED.fullmatch(self.kind)
        return None if numbered is None else int(numbered["number"])

    @property
    def groups(self) -> int:
        """Number of query groups in training: ``k`` of ``groups(k)``, else 1."""
        return (self.argument or 1) if KINDS[self.name].query_groups else 1

    def _check_kind(self) -> None:
        name, number = self.name, self.argument
        span = KINDS[name].argument if name in KINDS else None
        well_formed = self.kind == (name if number is None else f"{name}({number})")
        if name not in KINDS or not well_formed or (span is None) != (number is None):
            forms = [_form(entry_name) for entry_name in KINDS]
            raise ConfigError(
                f"match.kind {self.kind!r} is not one of {', '.join(forms)}"
                f"{nearest(self.kind, [form.replace('(k)', '(4)') for form in forms])}. "
                f"Replace k by a number such as 4. {KINDS.own_entry}"
            )
        if span is not None and number is not None and not span[0] <= number <= span[1]:
            advice = " Use 'hungarian' for one group." if self.kind == "groups(1)" else ""
            what = "number of groups" if KINDS[name].query_groups else "number"
            raise ConfigError(
                f"match.kind {self.kind!r}: the {what} is outside {list(span)}.{advice}"
            )


def _form(name: str) -> str:
    """How to write a kind of matching in a config: "name" or "name(k)"."""
    return name if KINDS[name].argument is None else f"{name}(k)"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and strengths of augmentations. The schedule turns each on and off."""

    mosaic_prob: float = 0.5  # per sample, in the DENSE phase
    mixup_prob: float = 0.5  # per batch, in the DENSE phase
    # shorter side of a tile; None: half the input's shorter side (320 at 640)
    mosaic_tile_px: int | None = None
    mosaic_rotation_deg: float = 10.0
    mosaic_translate: float = 0.1  # share of the canvas
    mosaic_scale: tuple[float, float] = (0.5, 1.5)
    mixup_ratio: tuple[float, float] = (0.45, 0.55)  # range of the weight of the image itself
    photometric_prob: float = 0.5
    zoom_out_prob: float = 0.5
    zoom_out_max: float = 4.0  # largest side ratio, ≥ 1
    iou_crop_prob: float = 0.8
    flip_prob: float = 0.5
    extra: tuple[str, ...] = ()  # your own entries of augment.OPERATIONS, in order
    # probability of each entry of augment.extra, per sample or batch; None: the entry's prob
    extra_prob: float | None = None
    min_box_px: float = 1.0  # boxes smaller than this are dropped after a transform
    # how often the multi-scale sizes include the base size; None: one fixed size
    multiscale_repeat: int | None = None

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
        for name in self.extra:
            OPERATIONS.check("augment.extra", name)
            if not OPERATIONS.is_added(name):
                raise ConfigError(
                    f"augment.extra: {name!r} is built in. Turn it on with augment.{name}_prob."
                )
            if self.extra.count(name) > 1:
                raise ConfigError(f"augment.extra: {name!r} is listed twice. List it once.")
        if self.extra_prob is not None:
            within("augment.extra_prob", self.extra_prob, 0, 1)
            if not self.extra:
                raise ConfigError(
                    f"augment.extra_prob {self.extra_prob} would have no effect, because "
                    f"augment.extra is empty. Leave it out."
                )
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
class ScheduleConfig:
    """The numbers from which ``schedule.py`` derives all phases of training."""

    warmup_epochs: int = 4  # epochs without strong augmentation at the start
    # after the warm-up, Dense O2O lasts this share of (epochs − clean tail)
    dense_share: float = 0.5
    clean_epochs: int = 12  # epochs without strong augmentation at the end
    lr_warmup_steps: int = 2000  # quadratic learning-rate warm-up
    lr_final_ratio: float = 0.5  # last learning rate / base; 1.0: constant after the warm-up
    # epochs at the end with the last learning rate; None: clean_epochs
    lr_clean_epochs: int | None = None
    # last share of the epochs, in which match.iou_power (if given) sets the matching cost
    late_match_share: float = 0.1
    # True: use the numbers unchanged, even if the run is too short for them
    unscaled: bool = False
    # start the clean tail from the best weights so far, as the official recipe does
    restart_from_best: bool = True

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
    """AdamW and its parameter groups, as in the official recipes.

    See "Official quirks" in docs/architecture.md.
    """

    lr: float = 8e-4
    backbone_lr: float = 4e-4
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    # The backbone's batch norm. backbone: backbone_lr with decay. undecayed: backbone_lr without
    # decay. base: lr without decay.
    backbone_norm: Literal["backbone", "undecayed", "base"] = "backbone"
    decay_bias: bool = False  # weight decay on the biases of encoder and decoder
    clip_norm: float = 0.1  # total gradient norm; 0: no clipping
    recipe_batch: int = 128  # total batch that lr was chosen for; the log notes any other total

    def _check(self) -> None:
        positive("optim.lr", self.lr)
        at_least("optim.backbone_lr", self.backbone_lr, 0)
        at_least("optim.weight_decay", self.weight_decay, 0)
        at_least("optim.clip_norm", self.clip_norm, 0)
        for beta in self.betas:
            within("optim.betas", beta, 0, 0.999999)


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Exponential moving average of weights: d(k) = decay·(1 − exp(−k / warmup_updates))."""

    decay: float = 0.9999
    warmup_updates: int = 1000

    def _check(self) -> None:
        within("ema.decay", self.decay, 0, 1)
        at_least("ema.warmup_updates", self.warmup_updates, 0)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop: epochs, device, precision, intervals of saving and evaluation."""

    epochs: int = 160
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    # of the forward pass (matching and losses: float32); auto: bf16 on CUDA
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1  # batches per optimisation step
    eval_every: int = 1  # epochs; the last epoch is always evaluated
    checkpoint_every: int = 1  # epochs; the last epoch is always saved
    # optimisation steps between checkpoints within an epoch; None: no such checkpoints
    checkpoint_steps: int | None = None
    # all: also keep the EMA weights of each saved epoch (``epoch_0003.pt``)
    keep_checkpoints: Literal["last", "all"] = "last"
    log_every: int = 20  # steps between two lines of the step log
    threads: int | None = None  # CPU threads of torch; None: unchanged
    # modules or .py files that add losses, matchings and other entries (docs/extending.md)
    plugins: tuple[str, ...] = ()

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
    """Evaluation of the EMA weights, on images squashed to ``data.input_size``."""

    top_k: int = 300  # number of best queries × classes that are scored
    # auto: hotcoco if installed (same numbers, faster)
    backend: Literal["auto", "pycocotools", "hotcoco"] = "auto"

    def _check(self) -> None:
        at_least("eval.top_k", self.top_k, 1)
