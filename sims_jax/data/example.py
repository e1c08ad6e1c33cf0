"""What an example of a dataset is, for all who make or read one.

    id       unique in the dataset
    photo    PNG or JPEG as bytes in a prepared dataset, uint8 [H, W, 3] once read
    layout   uint8 [H, W], void 255
    video    what near-copies of a photo share      frame    its position there

and, in all examples of a dataset or in none:

    instances   uint16 [H, W], 0 for none
    depth       float32 [H, W], metres, 0 for unknown
    coarse      uint8 [H, W], a layout with gaps, void 255
"""

from typing import Any

import numpy as np

Example = dict[str, Any]

OPTIONAL_FIELDS = {"instances": np.uint16, "depth": np.float32, "coarse": np.uint8}
