"""Build a detector from a preset or Config: backbone, encoder and decoder in one module."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from deim_lab.config import Config
from deim_lab.config.presets import preset
from deim_lab.detector.backbones import BackboneModule, build_backbone
from deim_lab.detector.decoder import DecoderSpec, Denoising, QueryDecoder
from deim_lab.detector.deimv2 import Deimv2Decoder
from deim_lab.detector.dfine import DFineDecoder
from deim_lab.detector.encoder import HybridEncoder
from deim_lab.detector.layers import StagedBackbone
from deim_lab.detector.lite_encoder import LiteEncoder
from deim_lab.detector.rtdetr import RTDetrDecoder
from deim_lab.errors import ConfigError
from deim_lab.structures import DetectorOutput, Prediction, Targets


def build_detector(preset_or_config: str | Config, num_classes: int) -> Detector:
    """Build an untrained detector.

    Args:
        preset_or_config: a name of ``PRESETS`` or a ``Config``. Only ``model`` and the number of
            query groups (``match.kind``) are used.
        num_classes: classes are ``[0, num_classes)``.

    Raises:
        ConfigError: unknown preset or backbone, or ``num_classes`` below 1.
    """
    config = preset(preset_or_config) if isinstance(preset_or_config, str) else preset_or_config
    if num_classes < 1:
        raise ConfigError(
            f"num_classes {num_classes} is below 1. The training annotations need at least one "
            f"category."
        )
    model = config.model
    backbone = build_backbone(model)
    if model.encoder == "lite":
        lite = LiteEncoder(
            backbone.channels,
            hidden_dim=model.hidden_dim,
            expansion=model.expansion,
            depth_mult=model.depth_mult,
        )
        return Detector(
            backbone,
            lite,
            _build_decoder(config, num_classes),
            strides=(*backbone.strides, 2 * backbone.strides[-1]),
        )
    encoder = HybridEncoder(
        backbone.channels,
        hidden_dim=model.hidden_dim,
        ffn_dim=model.encoder_ffn_dim,
        num_heads=model.num_heads,
        expansion=model.expansion,
        depth_mult=model.depth_mult,
        rtdetr=model.family == "rtdetrv2",
        summed=model.family == "deimv2",
    )
    return Detector(
        backbone, encoder, _build_decoder(config, num_classes), strides=backbone.strides
    )


def _build_decoder(config: Config, num_classes: int) -> QueryDecoder:
    model = config.model
    denoising = Denoising(
        model.num_denoising, model.max_denoising, model.label_noise_ratio, model.box_noise_scale
    )
    spec = DecoderSpec(
        in_channels=model.hidden_dim,
        num_classes=num_classes,
        dim=model.decoder_dim,
        ffn_dim=model.decoder_ffn_dim,
        num_layers=model.decoder_layers,
        eval_layers=model.eval_layers or model.decoder_layers,
        num_heads=model.num_heads,
        points=model.decoder_points,
        num_queries=model.num_queries,
        act=model.activation,
        gateway=model.gateway,
        query_position=model.query_position,
        denoising=denoising if model.num_denoising else None,
        query_groups=config.match.groups,
    )
    if model.family == "rtdetrv2":
        return RTDetrDecoder(spec)
    if model.family == "deimv2":
        return Deimv2Decoder(
            spec,
            reg_max=model.reg_max,
            reg_scale=model.reg_scale,
            up=model.up,
            share_box_head=model.share_box_head,
        )
    return DFineDecoder(spec, reg_max=model.reg_max, reg_scale=model.reg_scale, up=model.up)


class Detector(nn.Module):
    """A detector: images → boxes and class logits of a fixed number of queries.

    Attributes:
        strides: strides of the levels, finest first. Both sides of an image must be multiples of
            the coarsest stride.
        deployed: whether this is the deploy form, which can't be trained.
    """

    def __init__(
        self,
        backbone: BackboneModule,
        encoder: HybridEncoder | LiteEncoder,
        decoder: QueryDecoder,
        *,
        strides: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.encoder = encoder
        self.strides = strides
        self.deployed = False

    @property
    def num_classes(self) -> int:
        return self.decoder.num_classes

    def is_left_out(self, key: str) -> bool:
        """Whether a tensor name in a state belongs to a backbone stage absent from this model."""
        return (
            isinstance(self.backbone, StagedBackbone)
            and key.startswith("backbone.")
            and self.backbone.is_deeper(key.removeprefix("backbone."))
        )

    def forward(
        self, images: Tensor, targets: Targets | None = None
    ) -> Prediction | DetectorOutput:
        """Return a ``Prediction`` in eval mode, a ``DetectorOutput`` in train mode.

        Args:
            images: ``[B, 3, H, W]`` float in [0, 1].
            targets: used only for denoising queries in train mode; ``None`` makes none.

        Raises:
            ValueError: images of another type or shape, a side that is not a multiple of the
                coarsest stride, or too few anchors for the queries.
        """
        self._check(images, targets)
        return self.decoder(self.encoder(self.backbone(images)), targets)

    def every_level(self, images: Tensor) -> DetectorOutput:
        """Return all levels and query groups, as in training but without denoising queries.

        In eval mode, the levels end at the layer of inference. Norms keep their mode.

        Raises:
            ValueError: as ``forward``. Also for the deploy form, which has no heads of earlier
                levels.
        """
        if self.deployed:
            raise ValueError(
                "The deploy form has no heads for the earlier levels. Use the original model, "
                "before deploy()."
            )
        self._check(images, None)
        result = self.decoder(self.encoder(self.backbone(images)), every_level=True)
        assert isinstance(result, DetectorOutput)
        return result

    def train(self, mode: bool = True) -> Detector:
        if mode and self.deployed:
            raise ValueError(
                "The deploy form can't be trained, because parts for training are removed. Train "
                "the original model, before deploy()."
            )
        super().train(mode)
        return self

    def deploy(self) -> Detector:
        """Return a copy for inference with equal outputs, permanently in eval mode.

        Norms are folded into convolutions. Unused heads are removed.
        """
        model = copy.deepcopy(self).eval()
        model.encoder.fuse()
        model.decoder.drop_unused_heads()
        model.deployed = True
        return model.requires_grad_(False)

    def _check(self, images: Tensor, targets: Targets | None) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images are {images.dtype} of shape {list(images.shape)}. Expected float in [0, "
                f"1] of shape [B, 3, H, W]."
            )
        height, width = images.shape[-2:]
        coarsest = self.strides[-1]
        if height % coarsest or width % coarsest or not height or not width:
            raise ValueError(
                f"image size {height} × {width} (height × width): both must be multiples of "
                f"{coarsest}."
            )
        if targets is not None and targets.batch_size != images.shape[0]:
            raise ValueError(
                f"targets are of {targets.batch_size} images, but the batch has "
                f"{images.shape[0]} images."
            )
