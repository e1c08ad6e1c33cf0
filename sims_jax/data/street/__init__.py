"""The streets that `scenes` draws: what stands in them, what it looks like, and a z-buffer."""
