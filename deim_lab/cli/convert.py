"""``deim-lab convert``: write a data set as COCO, YOLO or Pascal VOC."""

from __future__ import annotations

import argparse
from typing import Any

from deim_lab.cli import options
from deim_lab.config.data import BOX_FORMATS
from deim_lab.host.files import user_path


def add(verbs: Any, shared: options.Shared) -> None:
    parser = verbs.add_parser(
        "convert",
        parents=[shared.common],
        help="write a data set as COCO, YOLO or Pascal VOC",
        allow_abbrev=False,
        description="Read a folder in COCO's, YOLO's, Pascal VOC's or CSV's layout and write its "
        "boxes and classes in another format. Polygons and keypoints are not kept.",
    )
    parser.add_argument(
        "source",
        metavar="FROM",
        type=options.path_text,
        help="folder of the data set, or 'embedded'",
    )
    parser.add_argument(
        "to", metavar="TO", type=user_path, help="new folder; nothing is overwritten"
    )
    parser.add_argument("--format", required=True, choices=("coco", "yolo", "voc"))
    parser.add_argument(
        "--pictures",
        choices=("link", "copy", "none"),
        default="link",
        help="link: hard links, or copies where links are impossible; a linked picture is one file "
        "with two names. none: labels only (default: link)",
    )
    parser.add_argument(
        "--boxes",
        choices=("auto", *BOX_FORMATS),
        default="auto",
        metavar="FORMAT",
        help="what the four numbers of a box in FROM are, one of "
        f"{', '.join(BOX_FORMATS)} (default: COCO's xywh, unless another format fits better)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from deim_lab.data import convert

    halves = convert.read(args.source, boxes=args.boxes)
    written = convert.write(args.format, args.to, halves, pictures=args.pictures)
    for half in halves:
        for notice in half.notices:
            options.say(f"{half.name}: {notice}")
    for notice in written.notices:
        options.say(notice)
    for half in written.halves:
        boxes = sum(len(picture.boxes) for picture in half.pictures)
        options.out(
            f"{half.name}: {len(half.pictures)} pictures, {boxes} boxes, "
            f"{len(half.categories)} classes"
        )
    options.out(str(written.folder))
