"""Make the data set and the runs in this folder. Start it with the package of commit e8048b7.

PYTHONPATH=<checkout of e8048b7> python make_runs.py

The runs are there to be read by later versions, so this script is not meant to be run again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from deim_lab.presets import PLAIN_RECIPE, preset
from PIL import Image

import deim_lab

SEED = 1
CUT_STEP = 8  # the second of three steps in epoch 2; the last checkpoint is the one of step 7
CATEGORIES = {3: "red", 7: "green", 20: "blue"}
COLOURS = {3: (220, 40, 40), 7: (40, 200, 60), 20: (50, 70, 230)}
TINY = {
    "data.batch_size": 4,
    "data.input_size": 64,
    "data.workers": 0,
    "model.backbone": "torchvision:mobilenet_v3_small",
    "model.backbone_stages": [0, 1],
    "model.hidden_dim": 16,
    "model.encoder_ffn_dim": 16,
    "model.decoder_dim": 16,
    "model.decoder_ffn_dim": 16,
    "model.num_heads": 2,
    "model.decoder_layers": 2,
    "model.decoder_points": [2, 2],
    "model.reg_max": 8,
    "model.expansion": 0.25,
    "model.num_queries": 60,
    "model.num_denoising": 4,
    "optim.lr": 0.004,
    "optim.backbone_lr": 0.004,
    "schedule.lr_warmup_steps": 2,
    "train.epochs": 8,
    "train.eval_every": 2,
    "train.checkpoint_steps": 1,
    "train.log_every": 1,
    "train.threads": 1,
}


def make_data(folder: Path) -> None:
    """Draw 12 training and 4 validation pictures with two to four small rectangles each."""
    rng = np.random.default_rng(5)
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    for split, count in (("train", 12), ("val", 4)):
        (folder / "images" / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            width, height = 96, 80
            pixels = np.full((height, width, 3), 120, np.uint8)
            for _ in range(int(rng.integers(2, 5))):
                category = int(rng.choice(list(CATEGORIES)))
                w, h = int(rng.integers(9, 14)), int(rng.integers(8, 12))
                x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
                pixels[y : y + h, x : x + w] = COLOURS[category]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "iscrowd": 0,
                        "category_id": category,
                        "bbox": [x, y, w, h],
                        "area": w * h,
                    }
                )
            name = f"{image_id:03d}.png"
            Image.fromarray(pixels).save(folder / "images" / split / name, optimize=True)
            images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        (folder / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def die(event: dict[str, Any]) -> None:
    """End the process in the middle of an epoch, as a power cut does."""
    if event["kind"] == "step" and event["step"] == CUT_STEP:
        os._exit(9)


def main() -> None:
    os.chdir(Path(__file__).parent)  # relative paths only: nothing of one machine is recorded
    config = preset("smoke", TINY)
    if sys.argv[1:] == ["cut"]:
        deim_lab.train(config, "data", seed=SEED, runs_dir="cut", device="cpu", on_event=die)
    for name in ("data", "finished", "cut"):
        shutil.rmtree(name, ignore_errors=True)
    make_data(Path("data"))
    deim_lab.train(config, "data", seed=SEED, runs_dir="finished", device="cpu")
    plain = preset("smoke", TINY | PLAIN_RECIPE)
    run = deim_lab.train(plain, "data", seed=SEED, runs_dir="finished", device="cpu")
    for checkpoint in (run.folder / "checkpoints").iterdir():
        checkpoint.unlink()  # this run is here to be compared with, which takes its log alone
    subprocess.run([sys.executable, Path(__file__).name, "cut"], check=False)
    for leftover in [*Path().glob("*/*/checkpoints/last_previous.pt"), *Path().glob("*/*/.lock")]:
        leftover.unlink()


if __name__ == "__main__":
    main()
