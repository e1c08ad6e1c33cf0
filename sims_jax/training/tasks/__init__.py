"""One task a network: its examples, its loss, its held-out score and its sample sheet."""
