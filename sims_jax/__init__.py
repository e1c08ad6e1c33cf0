"""Semi-parametric image synthesis (SIMS, Qi et al., CVPR 2018) in JAX.

    model = sims_jax.load("runs/camvid")
    result = model.synthesize(layout)

What is exported here is imported at its first use, so that reading data touches no accelerator.
"""

import importlib

_HOME = {
    "InputError": "errors",
    "Model": "model",
    "Result": "result",
    "Source": "result",
    "load": "model",
    "choose": "retrieval",
    "fill": "retrieval",
    "gather": "pipeline",
    "match": "retrieval",
    "render": "pipeline",
    "retrieve": "retrieval",
    "synthesize": "pipeline",
}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'sims_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sims_jax.{_HOME[name]}"), name)
