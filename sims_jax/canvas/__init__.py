"""The canvas: aligning, ordering and composing segments, and simulating the same from one photo."""
