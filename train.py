"""Trains every network of SIMS; see `python train.py --helpshort` and README.md."""

from sims_jax.commands import train_command

if __name__ == "__main__":
    train_command()
