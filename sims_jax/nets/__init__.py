"""The networks: transformer, ordering, densifier, synthesis, and the VGG of the perceptual loss."""
