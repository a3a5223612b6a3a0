"""The sections of a config, as frozen dataclasses: the source of defaults and ranges."""

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
    """The detector: backbone, hybrid encoder, decoder. Defaults are DEIM-D-FINE-N's."""

    # of the decoder, and of the encoder's fuse blocks
    family: Literal["dfine", "rtdetrv2", "deimv2"] = "dfine"
    # a name of detector.backbones: hgnetv2_*, resnet*_vd, lite0, timm:NAME, torchvision:NAME
    backbone: str = "hgnetv2_b0"
    # ImageNet weights that training starts from: a file, or the name of a source
    # (detector.pretrained)
    backbone_weights: str | None = None
    # 0-based stages handed to the encoder; strides 4·2^stage
    backbone_stages: tuple[int, ...] = (2, 3)
    learnable_affine: bool = True  # HGNetV2's scalar scale and shift after each activation
    # batch norm of the backbone as constants (plain D-FINE L and X)
    freeze_backbone_norm: bool = False
    freeze_stem: bool = False  # no gradient in the backbone's stem (plain D-FINE L and X)
    # lite: DEIMv2's smallest sizes, two levels from one map of the backbone
    encoder: Literal["hybrid", "lite"] = "hybrid"
    hidden_dim: int = 128  # encoder channels
    encoder_ffn_dim: int = 512  # of the hybrid encoder; the lite one has no feed-forward
    expansion: float = 0.34  # width of the encoder's fuse blocks
    depth_mult: float = 0.5  # depth of the encoder's fuse blocks
    num_heads: int = 8
    decoder_dim: int = 128
    decoder_ffn_dim: int = 512
    decoder_layers: int = 3
    # decoder layers that inference runs, at most decoder_layers; None: all
    eval_layers: int | None = None
    # D-FINE's gate after cross-attention; False: a plain residual (DEIMv2's smallest sizes)
    gateway: bool = True
    share_box_head: bool = False  # one box head for all decoder layers (DEIMv2's smallest sizes)
    # MLP from box to query position: 4→2d→d, or DEIM's 4→d→d→d for RT-DETRv2
    query_position: Literal["wide", "deep"] = "wide"
    # sampling points a head takes on each level, fine to coarse
    decoder_points: tuple[int, ...] = (6, 6)
    # of the decoder: SiLU in DEIM, ReLU in plain D-FINE
    activation: Literal["silu", "relu"] = "silu"
    num_queries: int = 300
    num_denoising: int = 100  # denoising queries aimed at (0 switches denoising off)
    # hard cap on denoising queries: an image with more targets gets fewer of them denoised
    max_denoising: int = 800
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
        stages = self.backbone_stages
        if self.encoder == "lite" and stages:  # which adds a level to the one map it is handed
            stages = (*stages, stages[-1] + 1)
        return tuple(4 * 2**stage for stage in stages)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Which classification loss, its γ and α, and the weights of all terms (official values)."""

    classification: str = "mal"  # a name of losses.CLASSIFICATION: mal, vfl, focal, or your own
    gamma: float | None = None  # ≥ 0; None: the loss's own, in losses.CLASSIFICATION
    alpha: float | None = None  # weight of negatives, in [0, 1]; None: likewise
    weight_class: float = 1.0
    weight_l1: float = 5.0
    weight_giou: float = 2.0
    weight_fgl: float = 0.15
    weight_ddf: float = 1.5
    ddf_temperature: float = 5.0
    go_union: bool = True  # boxes and edges of all levels on the union of their matches (GO-LSD)
    giou_weighting: Literal["none", "iou", "giou"] = "none"  # weight of each pair's GIoU loss

    def _check(self) -> None:
        CLASSIFICATION.check("loss.classification", self.classification)
        for name in ("gamma", "alpha"):
            if getattr(self, name) is not None and name not in (self.term.takes or ()):
                raise ConfigError(
                    f"loss.{name} {getattr(self, name)} would have no effect: "
                    f"loss.classification {self.classification!r} takes no {name}"
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
        """γ in force: the given one, or the classification loss's own; None: it has none."""
        return self.term.gamma if self.gamma is None else self.gamma

    @property
    def effective_alpha(self) -> float | None:
        """α in force: the given one, or the classification loss's own; None: it has none."""
        return self.term.alpha if self.alpha is None else self.alpha

    @property
    def options(self) -> dict[str, float | None]:
        """γ and α in force, as far as the classification loss takes them."""
        values = {"gamma": self.effective_gamma, "alpha": self.effective_alpha}
        return {name: values[name] for name in self.term.takes or ()}


@dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """Which query learns from which target: kind of matching, and its costs (official values).

    ``hungarian``: one query a target. ``simota``: as many as fit it well (``matching.simota``).
    ``groups(k)``: one in each of ``k`` groups of queries that don't see one another; inference has
    one group (``detector.queries``). Your own: an entry of ``matching.KINDS``.
    """

    kind: str = "hungarian"  # hungarian | simota | groups(k) with k in [2, 20], e.g. "groups(4)"
    cost_class: float = 2.0
    cost_l1: float = 5.0
    cost_giou: float = 2.0
    alpha: float = 0.25  # focal cost
    gamma: float = 2.0  # focal cost
    # e of the late one-to-one cost −p·IoU^e (DEIMv2: 4; see schedule.late_match_share); None:
    # never
    iou_power: float | None = None
    # the best IoUs that add up to a target's number of queries; also the most that it can claim
    simota_candidates: int = 10
    # half side of the centre prior's square, in cells of 1/40 of the image (stride 16 at 640 px)
    simota_radius: float = 2.5
    simota_iou_weight: float = 3.0  # of −log IoU beside the class cost; ≥ 0

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
        """The number ``k`` of a kind "name(k)"; None: there is none."""
        found = _NUMBERED.fullmatch(self.kind)
        return None if found is None else int(found["number"])

    @property
    def groups(self) -> int:
        """Groups of queries in training: ``k`` of ``groups(k)``, else 1."""
        return (self.argument or 1) if KINDS[self.name].query_groups else 1

    def _check_kind(self) -> None:
        name, number = self.name, self.argument
        span = KINDS[name].argument if name in KINDS else None
        well_formed = self.kind == (name if number is None else f"{name}({number})")
        if name not in KINDS or not well_formed or (span is None) != (number is None):
            forms = [_form(entry_name) for entry_name in KINDS]
            raise ConfigError(
                f"match.kind {self.kind!r} is unknown; known: {', '.join(forms)}"
                f"{nearest(self.kind, [form.replace('(k)', '(4)') for form in forms])}. "
                f"(k) stands for a number such as 4. {KINDS.own_entry}"
            )
        if span is not None and number is not None and not span[0] <= number <= span[1]:
            one = "; one group is 'hungarian'" if self.kind == "groups(1)" else ""
            what = "number of groups" if KINDS[name].query_groups else "number"
            raise ConfigError(f"match.kind {self.kind!r}: the {what} is outside {list(span)}{one}")


def _form(name: str) -> str:
    """How a kind of matching is written, ``groups(k)`` with its number."""
    return name if KINDS[name].argument is None else f"{name}(k)"


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and strengths of augmentation. The schedule decides when each is on."""

    mosaic_prob: float = 0.5  # a sample, in the DENSE phase
    mixup_prob: float = 0.5  # a batch, in the DENSE phase
    # shorter side of a tile; None: half the input's shorter side (320 at 640)
    mosaic_tile_px: int | None = None
    mosaic_rotation_deg: float = 10.0
    mosaic_translate: float = 0.1  # share of the canvas
    mosaic_scale: tuple[float, float] = (0.5, 1.5)
    mixup_ratio: tuple[float, float] = (0.45, 0.55)  # range of the weight of the own image
    photometric_prob: float = 0.5
    zoom_out_prob: float = 0.5
    zoom_out_max: float = 4.0  # largest side ratio, ≥ 1
    iou_crop_prob: float = 0.8
    flip_prob: float = 0.5
    extra: tuple[str, ...] = ()  # names of augment.OPERATIONS that you added, in their order
    # probability of each of augment.extra, a sample or batch; None: the entry's own
    extra_prob: float | None = None
    min_box_px: float = 1.0  # smaller boxes are dropped after a transform
    # times the base size stands among the multi-scale sizes; None: one fixed size
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
                    f"augment.extra: {name!r} is part of the lab; augment.{name}_prob turns it on"
                )
            if self.extra.count(name) > 1:
                raise ConfigError(f"augment.extra: {name!r} stands twice")
        if self.extra_prob is not None:
            within("augment.extra_prob", self.extra_prob, 0, 1)
            if not self.extra:
                raise ConfigError(
                    f"augment.extra_prob {self.extra_prob} would have no effect: augment.extra is "
                    f"empty"
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
class DataConfig:
    """Batches. The data set itself is named beside the config (``--data``)."""

    batch_size: int = 32  # images a step and process
    eval_batch_size: int | None = None  # None: twice batch_size
    # height, width; multiples of 32 (one number means a square)
    input_size: tuple[int, int] = (640, 640)
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
    # Dense O2O lasts this share of (epochs − clean tail), after the warm-up
    dense_share: float = 0.5
    clean_epochs: int = 12  # epochs without strong augmentation at the end
    lr_warmup_steps: int = 2000  # quadratic learning-rate warm-up
    lr_final_ratio: float = 0.5  # last learning rate / base; 1.0: constant after the warm-up
    # epochs at the end with the last learning rate; None: clean_epochs
    lr_clean_epochs: int | None = None
    # last share of the epochs, where match.iou_power is the matching cost if it is given
    late_match_share: float = 0.1
    # True: take the numbers as they are, also where the run is too short for them
    unscaled: bool = False
    # enter the clean tail from the best weights so far, as the official recipe does
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
    """AdamW and its parameter groups, as the official recipes make them.

    See "Official quirks" in docs/architecture.md.
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
    # of the forward (matching and losses: float32); auto: bf16 on CUDA
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    accumulate: int = 1  # batches an optimisation step
    eval_every: int = 1  # epochs; the last one is always evaluated
    checkpoint_every: int = 1  # epochs; the last one is always saved
    # optimisation steps between further checkpoints inside an epoch; None: none
    checkpoint_steps: int | None = None
    # all: also the EMA weights of each epoch that is saved (``epoch_0003.pt``), to look back
    keep_checkpoints: Literal["last", "all"] = "last"
    log_every: int = 20  # steps between lines of the step log
    threads: int | None = None  # CPU threads of torch; None: leave as it is
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
    """Evaluation: the EMA weights, on images squashed to ``data.input_size``."""

    top_k: int = 300  # best of queries × classes that are scored
    # auto: hotcoco where installed (same numbers, faster)
    backend: Literal["auto", "pycocotools", "hotcoco"] = "auto"

    def _check(self) -> None:
        at_least("eval.top_k", self.top_k, 1)
