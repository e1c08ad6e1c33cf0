"""COCO-Stuff in SPADE's layout: root/{train,val}_img, {train,val}_label and, if there, _inst.

    train_img/NAME.jpg      photos of train2017
    train_label/NAME.png    stuffthingmaps: ids 0 to 181, which are the published ids less one; 255
    train_inst/NAME.png     instances, 8 or 16 bits, as SPADE's coco_generate_instance_map.py writes
                            them: where no object is they repeat the label, which cuts nothing

Written after github.com/nightrome/cocostuff (labels.txt) and SPADE's documentation and tested on
replicas, not on the download itself.
"""

import dataclasses
import pathlib

from sims_jax.data.listing import add_partners, pair_files
from sims_jax.data.pairs import FilesBuilder, Pair, Splits
from sims_jax.errors import Refuse, refuse_at_once
from sims_jax.labels import LabelSpace, spread_colors

# The 91 ids of things, 11 of which have no photo; then the 91 of stuff.
# fmt: off
_THINGS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird",
    "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat",
    "backpack", "umbrella", "shoe", "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "plate", "wine glass", "cup", "fork", "knife", "spoon", "bowl",
    "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk",
    "toilet", "door", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave",
    "oven", "toaster", "sink", "refrigerator", "blender", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush", "hair brush",
)
_STUFF = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage",
    "cardboard", "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter",
    "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble",
    "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other",
    "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper",
    "pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing",
    "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf",
    "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable",
    "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile",
    "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood",
)
COCO_STUFF = LabelSpace(
    name="coco_stuff",
    classes=(*_THINGS, *_STUFF),
    palette=spread_colors(len(_THINGS) + len(_STUFF)),  # the dataset states none
    thin=("traffic light", "street sign", "stop sign", "parking meter"),
    planar=(
        "carpet", "dirt", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood",
        "grass", "gravel", "ground-other", "mat", "moss", "mud", "pavement", "platform",
        "playingfield", "railroad", "river", "road", "rug", "sand", "sea", "snow", "water-other",
    ),
    context=_STUFF,
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class CocoStuffConfig:
    """Where COCO-Stuff lies: the folder that holds train_img, train_label, ..."""

    root: str


class CocoStuff(FilesBuilder):
    """COCO-Stuff (Caesar et al. 2018), 182 classes."""

    LICENCE = (
        "COCO-Stuff (Caesar et al. 2018): annotations CC BY 4.0; photos by their owners' terms on "
        "Flickr, as cocodataset.org states."
    )

    @classmethod
    def list_examples(
        cls, config: CocoStuffConfig, refuse: Refuse = refuse_at_once
    ) -> tuple[LabelSpace, Splits]:
        """Lists train and val.

        Raises:
          InputError: a folder is missing or (through `refuse`) a partner is.
        """
        root = pathlib.Path(config.root).expanduser()
        return COCO_STUFF, {split: _list_split(root, split, refuse) for split in ("train", "val")}


def _list_split(root: pathlib.Path, split: str, refuse: Refuse) -> tuple[Pair, ...]:
    files = pair_files(root / f"{split}_img", root / f"{split}_label", refuse=refuse)
    instances = add_partners(files, root / f"{split}_inst", refuse=refuse)
    return tuple(
        Pair(
            id=name, photo=photo, layout=layout, video=name, frame=0, instances=instances.get(name)
        )
        for name, (photo, layout) in files.items()
    )
