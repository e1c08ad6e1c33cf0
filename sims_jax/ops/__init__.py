"""Image mathematics on arrays: resampling, components, morphology, bits and colour."""
