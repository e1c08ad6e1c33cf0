"""How good photos are: the protocol, its judge, and its scores."""

import pathlib

MEDOID = pathlib.Path()  # a reference: the held-out photo whose light is nearest to the others'
BASELINES = ("canvas", "retrieved_photo", "crn")  # the sets that stand beside the photos
