"""How good photos are: the protocol, its judge, and its scores."""
