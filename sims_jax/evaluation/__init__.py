"""How good photos are: the protocol, its judge, and its scores."""

import pathlib

TYPICAL = pathlib.Path()  # as a reference: the held-out photo in the light of most
