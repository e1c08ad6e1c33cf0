"""Trains every network of SIMS; its flags are below, the rest is in README.md and docs/."""

from sims_jax.commands import train_command

if __name__ == "__main__":
    train_command()
