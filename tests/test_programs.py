"""Where commands keep their compiled programs; the library keeps none."""

import os
import pathlib
import subprocess
import sys

import pytest

ASK = "import sys; import sims_jax.synthesize_command; assert 'jax' not in sys.modules; "
TELL = "import jax; print(jax.config.jax_compilation_cache_dir)"
KEEP = "from sims_jax.programs import shorten_start; shorten_start(); "


def folder_of(code: str, home: pathlib.Path, **variables: str) -> str:
    """What a process with that home folder prints."""
    unset = {"JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(home)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "HOME/.cache/sims_jax/xla"),
        ({"XDG_CACHE_HOME": "/dev/null"}, "None"),  # cannot be written, which is no error
        ({"JAX_COMPILATION_CACHE_DIR": "/my/own"}, "/my/own"),
    ],
)
def test_commands_keep_programs(tmp_path, variables, expected):
    found = folder_of(ASK + KEEP + TELL, tmp_path, **variables)
    assert found == expected.replace("HOME", str(tmp_path))


def test_the_library_keeps_none(tmp_path):
    assert folder_of("import sims_jax.model; " + TELL, tmp_path) == "None"
    assert not list(tmp_path.iterdir())


RUN = """
import jax, numpy as np
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name))
result = jax.jit(lambda x: jax.nn.softmax(x @ x.T))(np.linspace(0, 1, 96).reshape(12, 8))
print(np.asarray(result).tobytes().hex(), found.count("/jax/compilation_cache/cache_hits"))
"""


def test_the_second_start_finds_the_program_and_its_bits(tmp_path):
    first, second = (folder_of(KEEP + RUN, tmp_path).split() for _ in range(2))
    assert first[0] == second[0]
    assert (first[1], second[1]) == ("0", "1")
