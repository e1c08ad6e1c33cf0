"""Training: batches read from the bank, one task a network, one loop for all."""
