"""Makes photos of semantic layouts; see `python synthesize.py --help` and README.md."""

from sims_jax.synthesize_command import synthesize_command

if __name__ == "__main__":
    synthesize_command()
