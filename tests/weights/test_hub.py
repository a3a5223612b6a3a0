"""weights/hub.py against models that transformers builds, with random weights."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from deim_lab.cli import options
from deim_lab.config.presets import preset
from deim_lab.detector.detector import Detector, build_detector
from deim_lab.detector.hgnetv2 import VARIANTS
from deim_lab.errors import WeightsError
from deim_lab.weights import hub
from deim_lab.weights.own import LoadReport, fingerprint_of, load_official, load_weights

pytestmark = pytest.mark.numeric

transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

NAMES = ["red", "green", "blue"]
SMALL = {"model.num_queries": 40}


def hgnet_config(name: str, stages: tuple[int, ...]) -> Any:
    spec = VARIANTS[name]
    return transformers.HGNetV2Config(
        stem_channels=[3, *spec.stem],
        stage_in_channels=[spec.stem[1], *(stage.out for stage in spec.stages[:-1])],
        stage_mid_channels=[stage.mid for stage in spec.stages],
        stage_out_channels=[stage.out for stage in spec.stages],
        stage_num_blocks=[stage.blocks for stage in spec.stages],
        stage_numb_of_layers=[stage.layers for stage in spec.stages],
        hidden_sizes=[stage.out for stage in spec.stages],
        use_learnable_affine_block=True,
        out_indices=[stage + 1 for stage in stages],
    )


def dfine(size: str) -> Any:
    config = preset(f"dfine_{size}").model
    channels = [VARIANTS[config.backbone].stages[stage].out for stage in config.backbone_stages]
    levels = len(channels)
    return transformers.DFineForObjectDetection(
        transformers.DFineConfig(
            backbone_config=hgnet_config(config.backbone, config.backbone_stages),
            encoder_in_channels=channels,
            feat_strides=list(config.strides),
            encoder_hidden_dim=config.hidden_dim,
            encoder_ffn_dim=config.encoder_ffn_dim,
            encode_proj_layers=[levels - 1],
            hidden_expansion=config.expansion,
            depth_mult=config.depth_mult,
            d_model=config.decoder_dim,
            decoder_ffn_dim=config.decoder_ffn_dim,
            decoder_in_channels=[config.hidden_dim] * levels,
            num_feature_levels=levels,
            decoder_n_points=list(config.decoder_points),
            decoder_layers=config.decoder_layers,
            num_queries=40,
            id2label=dict(enumerate(NAMES)),
        )
    )


def rtdetr(depth: int) -> Any:
    config = preset(f"rtdetrv2_r{depth}").model
    basic = depth == 18
    backbone = transformers.RTDetrResNetConfig(
        layer_type="basic" if basic else "bottleneck",
        depths=[2, 2, 2, 2] if basic else [3, 4, 6, 3],
        hidden_sizes=[64, 128, 256, 512] if basic else [256, 512, 1024, 2048],
        out_features=["stage2", "stage3", "stage4"],
    )
    return transformers.RTDetrV2ForObjectDetection(
        transformers.RTDetrV2Config(
            backbone_config=backbone,
            encoder_in_channels=backbone.hidden_sizes[1:],
            encoder_hidden_dim=config.hidden_dim,
            encoder_ffn_dim=config.encoder_ffn_dim,
            hidden_expansion=config.expansion,
            decoder_in_channels=[config.hidden_dim] * 3,
            decoder_layers=config.decoder_layers,
            num_queries=40,
            id2label=dict(enumerate(NAMES)),
        )
    )


BUILDERS: dict[str, Callable[[], Any]] = {
    "dfine_n": lambda: dfine("n"),
    "dfine_s": lambda: dfine("s"),
    "rtdetrv2_r18": lambda: rtdetr(18),
    "rtdetrv2_r50": lambda: rtdetr(50),
}

Model = TypeVar("Model", bound=nn.Module)


def shaken(model: Model) -> Model:
    """No tensor at its initial value, no two layers alike (transformers ties heads that start
    equal), magnitudes kept.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.exp(0.2 * torch.randn(value.shape, generator=generator)))
            elif value.is_floating_point() and not name.endswith(
                ("points_scale", "reg_scale", ".up", "anchors")
            ):
                scale = 0.1 if value.ndim < 2 else 1.2 / max(1, value[0].numel()) ** 0.5
                noise = scale * torch.randn(value.shape, generator=generator)
                value.copy_(
                    noise + 1 if value.ndim == 1 and name.endswith(("weight", "scale")) else noise
                )
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    made = {}
    for name in ("dfine_n", "rtdetrv2_r18"):
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        model = shaken(BUILDERS[name]()).eval()
        model.save_pretrained(folder)
        made[name] = (model, folder)
    return made


def both(
    theirs: nn.Module, ours: Detector, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = torch.rand(
        2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    with torch.no_grad():
        expected, found = theirs.double().eval()(pixel_values=images), ours.double().eval()(images)
    return expected.logits, expected.pred_boxes, found.logits, found.boxes_cxcywh


def assert_same_outputs(
    name: str, theirs: nn.Module, folder: Path, size: tuple[int, int] = (192, 192)
) -> None:
    ours = build_detector(preset(name, SMALL), 3)
    assert load_official(ours, folder, categories=NAMES) == LoadReport()
    logits, boxes, our_logits, our_boxes = both(theirs, ours, size)
    torch.testing.assert_close(
        our_logits, logits, rtol=0, atol=1e-5
    )  # transformers keeps the position table in float32
    torch.testing.assert_close(our_boxes, boxes, rtol=0, atol=1e-6)
    assert float(logits.std()) > 0.1
    assert float(boxes.std()) > 0.01


@pytest.mark.parametrize("name", ["dfine_n", "rtdetrv2_r18"])
def test_the_same_outputs(name: str, folders: dict[str, tuple[nn.Module, Path]]) -> None:
    assert_same_outputs(name, *folders[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dfine_s", "rtdetrv2_r50"])
def test_the_same_outputs_of_more_sizes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = shaken(BUILDERS[name]())
    theirs.save_pretrained(tmp_path, max_shard_size="20MB")  # in shards
    assert not (tmp_path / "model.safetensors").exists()
    assert_same_outputs(name, theirs, tmp_path)


def test_names_of_transformers_five_go_in_too(
    folders: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    """``save_pretrained`` writes the names of older versions; modules are named otherwise now."""
    from safetensors.torch import save_file

    model, folder = folders["dfine_n"]
    shutil.copy(folder / "config.json", tmp_path)
    save_file(
        {
            key: value.clone()
            for key, value in model.state_dict().items()
            if not key.startswith(("class_embed", "bbox_embed"))
        },
        tmp_path / "model.safetensors",
    )
    old, new = hub.read_hub(folder).state, hub.read_hub(tmp_path).state
    assert old.keys() == new.keys()
    assert all(torch.equal(value.to(new[key]), new[key]) for key, value in old.items())


def test_head_rows_go_by_class_name(folders: dict[str, tuple[nn.Module, Path]]) -> None:
    theirs, folder = folders["dfine_n"]
    ours = build_detector("dfine_n", 2)
    report = load_weights(
        ours, folder, categories=[{"id": 1, "name": "Blue"}, {"id": 2, "name": "violet"}]
    )
    assert report.classes is not None
    assert report.classes.rows == (2, None)
    assert report.classes.dropped == ("red", "green")
    head = theirs.state_dict()["model.enc_score_head.weight"]
    torch.testing.assert_close(ours.decoder.enc_score_head.weight[0], head[2].to(torch.float32))
    assert "num_queries is 40 in the checkpoint and 300 in the model" in str(report)


def test_head_rows_go_by_the_names_of_config_json_whatever_the_json_of_classes_lists(
    folders: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    """``--categories`` sorts by id (blue, red, green); config.json says red, green, blue."""
    theirs, folder = folders["dfine_n"]
    path = tmp_path / "classes.json"
    listed = [
        {"id": category_id, "name": name}
        for name, category_id in zip(NAMES, (2, 3, 1), strict=True)
    ]
    path.write_text(
        json.dumps(
            {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": listed}
        ),
        encoding="utf-8",
    )
    loaded = options.load(
        argparse.Namespace(
            weights=str(folder),
            preset="dfine_n",
            categories=path,
            device="cpu",
            assignments=["model.num_queries=40"],
        )
    )
    assert [item["name"] for item in loaded.categories] == ["blue", "red", "green"]
    head = theirs.state_dict()["model.enc_score_head.weight"].float()
    torch.testing.assert_close(loaded.model.decoder.enc_score_head.weight, head[[2, 0, 1]])


def test_fingerprints_follow_content(
    folders: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    folder = folders["dfine_n"][1]
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert fingerprint_of(folder) == fingerprint_of(copied)
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    (copied / "config.json").write_text(
        json.dumps(config | {"id2label": {"0": "a", "1": "b", "2": "c"}}), encoding="utf-8"
    )
    assert fingerprint_of(folder) != fingerprint_of(copied)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "rt_detr"}, "model_type 'rt_detr'.*d_fine"),
        ({"decoder_offset_scale": 0.25}, "decoder_offset_scale is 0.25, expected 0.5"),
        ({"decoder_activation_function": "silu"}, "decoder_activation_function is 'silu'"),
        ({"eval_size": [640, 640]}, "eval_size"),
        ({"eval_idx": 1}, "inference ends with layer 2 of 3"),
        ({"decoder_n_points": 6}, None),
        (
            {"decoder_n_points": [4, 8]},
            r"decoder_n_points is \[4, 8\], this model's model.decoder_points \[6, 6\]",
        ),
        ({"decoder_attention_heads": 4}, "decoder_attention_heads is 4, this model's 8"),
        ({"encoder_attention_heads": 4}, "encoder_attention_heads is 4, this model's 8"),
    ],
)
def test_another_architecture_is_refused(
    change: dict[str, Any],
    says: str | None,
    folders: dict[str, tuple[nn.Module, Path]],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(folders["dfine_n"][1], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    with contextlib.nullcontext() if says is None else pytest.raises(WeightsError, match=says):
        load_official(build_detector("dfine_n", 3), folder)


def test_a_preset_that_does_not_fit_is_refused(folders: dict[str, tuple[nn.Module, Path]]) -> None:
    with pytest.raises(WeightsError, match=r"decoder has ReLU, this model's silu.*dfine_n"):
        load_official(build_detector("deim_dfine_n", 3), folders["dfine_n"][1])
    with pytest.raises(
        WeightsError,
        match=r"it looks like deim_dfine_n or dfine_n of 3 classes, while this model is .*dfine_s",
    ):
        load_official(build_detector("dfine_s", 3), folders["dfine_n"][1])
    with pytest.raises(WeightsError, match="it looks like rtdetrv2_r18 of 3 classes"):
        load_official(build_detector("dfine_n", 3), folders["rtdetrv2_r18"][1])


def test_folders_that_can_not_be_read(
    folders: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> None:
    whole = folders["dfine_n"][1]
    model = build_detector("dfine_n", 3)
    truncated = shutil.copytree(whole, tmp_path / "truncated")
    (truncated / "model.safetensors").write_bytes(
        (whole / "model.safetensors").read_bytes()[:-1000]
    )
    with pytest.raises(WeightsError, match=r"model\.safetensors: can't be read"):
        load_official(model, truncated)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(whole / "config.json", pickled)
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="save_pretrained"):
        load_official(model, pickled)
    garbled = shutil.copytree(whole, tmp_path / "garbled")
    (garbled / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match=r"config\.json is no readable JSON"):
        load_official(model, garbled)


def test_an_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*args: Any, **kwargs: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        WeightsError,
        match=r"ustc-community/dfine-nano-coco.*can't be downloaded \(ConnectionError: no route",
    ):
        load_official(build_detector("dfine_n", 3), "ustc-community/dfine-nano-coco")


def test_an_id_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, folders: dict[str, tuple[nn.Module, Path]]
) -> None:
    import huggingface_hub

    folder = folders["dfine_n"][1]
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **kwargs: str(folder) if kwargs.get("local_files_only") else "",
    )
    report = load_official(build_detector("dfine_n", 3), "owner/name", categories=NAMES)
    assert report == LoadReport()


def test_a_path_is_no_id(tmp_path: Path) -> None:
    assert hub.is_hub("owner/name")
    assert not hub.is_hub("weights/absent.pth")
    assert not hub.is_hub(tmp_path)
    with pytest.raises(WeightsError, match="does not exist"):
        load_official(build_detector("dfine_n", 3), "weights/absent.pth")
