"""Count the parameters and floating-point operations of a model, as in published numbers.

The published numbers of D-FINE, DEIM and RT-DETRv2 come from the tool calflops. It counts twice the
multiply-adds of convolutions and linear layers. It counts a few operations per element for norms
(batch 2, layer 5), activations, softmax, pooling and up-sampling (1 each). It does not count the
two products inside attention, sampling in deformable attention, and plain arithmetic between
tensors. The numbers here can therefore be compared with the published ones, but are not the exact
work. Nothing is computed: only shapes pass through the model.

One part is counted but not computed here. The official RT-DETRv2 refines the box of every anchor
and then selects; this lab selects and then refines, with equal boxes. The published numbers include
the difference, so ``gflops`` does too; ``spared_gflops`` is its size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deim_lab.detector.detector import Detector
from deim_lab.detector.rtdetr import RTDetrDecoder


@dataclass(frozen=True)
class Cost:
    """Parameters of a model, and the operations of one forward pass of one image.

    Attributes:
        parameters: number of elements of all parameters, with frozen ones, without buffers.
        gflops: 10⁹ floating-point operations, by the convention of this module.
        gmacs: 10⁹ multiply-adds of convolutions and linear layers.
        spared_gflops: the part of ``gflops`` that only the official RT-DETRv2 computes (0 for the
            other families).
    """

    parameters: int
    gflops: float
    gmacs: float
    spared_gflops: float = 0.0


def count(model: nn.Module, size: tuple[int, int] = (640, 640)) -> Cost:
    """The cost of a detector in its current form; published numbers are for the deploy form.

    Args:
        model: a model for images ``[1, 3, H, W]``. It isn't changed, and may be on the meta device.
        size: height and width in pixels.
    """
    parameters = sum(item.numel() for item in model.parameters())
    twin = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), _Counter() as counter:
        twin(torch.empty(1, 3, *size, device="meta"))
    spared = _spared_macs(model, size)
    return Cost(
        parameters,
        (2 * (counter.macs + spared) + counter.others) / 1e9,
        (counter.macs + spared) / 1e9,
        2 * spared / 1e9,
    )


def _spared_macs(model: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-adds of the box head on unselected anchors, which only official code refines."""
    if not isinstance(model, Detector) or not isinstance(model.decoder, RTDetrDecoder):
        return 0
    anchors = sum((size[0] // stride) * (size[1] // stride) for stride in model.strides)
    row = sum(
        int(weight.numel())
        for weight in model.decoder.enc_bbox_head.parameters()
        if weight.ndim == 2
    )
    return (anchors - model.decoder.spec.num_queries) * row


class _Counter(TorchDispatchMode):
    """Count the operations that pass through PyTorch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.others = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in _MACS:
            self.macs += _MACS[name](args, result)
        if name in _OTHERS:
            self.others += _OTHERS[name](args, result)
        return result


def _each_output(operations: int) -> Callable[[tuple[Any, ...], Any], int]:
    return lambda _, result: (
        operations * (result if isinstance(result, Tensor) else result[0]).numel()
    )


def _each_input(operations: int) -> Callable[[tuple[Any, ...], Any], int]:
    return lambda args, _: operations * int(args[0].numel())


def _convolution_macs(args: tuple[Any, ...], result: Tensor) -> int:
    """Multiply-adds of a convolution: output elements × elements of a kernel.

    A weight is ``[out, in / groups, h, w]``.
    """
    return result.numel() * args[1][0].numel()


def _convolution_bias(args: tuple[Any, ...], result: Tensor) -> int:
    return 0 if args[2] is None else result.numel()


_MACS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _convolution_macs,
    "mm": lambda args, result: result.numel() * args[0].shape[-1],
    "addmm": lambda args, result: result.numel() * args[1].shape[-1],
}
_OTHERS: dict[str, Callable[[tuple[Any, ...], Any], int]] = {
    "convolution": _convolution_bias,
    **dict.fromkeys(
        (
            "native_batch_norm",
            "cudnn_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_no_update",
        ),
        _each_output(2),
    ),
    "native_layer_norm": _each_output(5),
    **dict.fromkeys(
        ("relu", "relu_", "silu", "silu_", "gelu", "_softmax", "_safe_softmax"), _each_output(1)
    ),
    **dict.fromkeys(
        ("max_pool2d_with_indices", "avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d"),
        _each_input(1),
    ),
}
