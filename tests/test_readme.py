"""What the README and its pages tell people to type exists, and so do their links."""

import pathlib
import re
import shlex

import numpy as np
import pytest
from conftest import load_config

from sims_jax.bank.__main__ import bank_parser
from sims_jax.evaluate import evaluate_parser
from sims_jax.synthesize_command import synthesize_parser
from sims_jax.training.settings import check_batches, read_settings

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
TEXT = "\n".join(PAGES.values())
MODULE_FLAGS = {  # of those that read a config, besides it
    "sims_jax.data.check": ("json", "sheet", "follow_links"),
    "benchmarks.study": ("workdir", "variants", "seeds", "baselines", "json"),
}
COMMANDS = dict.fromkeys(  # each once
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
)


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command):
    words = shlex.split(command)
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
        return
    if words[:3] == ["python", "-m", "sims_jax.bank"]:
        assert bank_parser().parse_args(words[3:]).bank
        return
    if words[:3] == ["python", "-m", "sims_jax.evaluate"]:
        assert evaluate_parser().parse_args(words[3:]).workdir
        return
    module = MODULE_FLAGS.get(words[2]) if words[1] == "-m" else None
    assert words[0] == "python" and (module or (ROOT / words[1]).exists())
    flags = dict(
        word.removeprefix("--").partition("=")[::2] for word in words[3 if module else 2 :]
    )
    if module or words[1] == "train.py":
        path, _, argument = flags.pop("config").partition(":")
        config = load_config(pathlib.Path(path).stem, *([argument] if argument else []))
        if module:
            flags = {name: value for name, value in flags.items() if name not in module}
        else:
            assert flags.pop("workdir")
        for key in flags:
            node = config
            for part in key.split(".")[1:]:
                node = node[part]
    else:
        known = synthesize_parser().parse_args(words[2:])
        assert known.workdir and known.layout and known.out


def test_the_clusters_batches_are_shared_by_its_devices():
    (script,) = re.findall(r"```sh\n(#!.*?)```", TEXT, re.DOTALL)
    nodes, each = (int(re.search(rf"#SBATCH --{x}=(\d+)", script)[1])
                   for x in ("nodes", "gpus-per-node"))  # fmt: skip
    config = load_config("cityscapes")
    assert "--config=configs/cityscapes.py" in script
    for key, value in re.findall(r"--config\.(\S+\.batch_size)=(\d+)", script):
        config.update_from_flattened_dict({key: int(value)})
    check_batches(read_settings(config), config.stages, nodes * each)


def test_python_imports():
    blocks = re.findall(r"```python\n(.*?)```", PAGES[ROOT / "README.md"], re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert "from sims_jax import gather, render, retrieve" in imports
    exec("\n".join(imports), {})


def test_the_steps_by_hand_are_those_of_synthesize(tiny_model):
    (steps,) = re.findall(r"```python\n(import jax\n.*?)```", PAGES[ROOT / "README.md"], re.DOTALL)
    here = {"model": tiny_model}
    exec(steps, here)
    layout = np.zeros((1, *tiny_model.spec.image_size), np.uint8)
    layout[:, 20:40, 4:60] = tiny_model.labels.classes.index("car")  # a row, which is cut
    photo = here["second_best"](tiny_model.params, tiny_model.bank, layout)[0]
    expected = tiny_model.synthesize(layout[0], candidate=1).photo
    np.testing.assert_allclose(photo, expected, atol=1e-5)


def test_no_blank_is_left():
    assert not re.findall(r"@[A-Z_]+@?", TEXT)


@pytest.mark.parametrize("name", ["quickstart", "camvid", "cityscapes"])
def test_configs_describe_networks(name):
    from sims_jax.labels import CAMVID
    from sims_jax.networks import make_networks

    config = load_config(name)
    networks = make_networks(config, CAMVID)
    assert networks.synthesis.decoder_widths
    assert set(config.stages) == {
        "bank", "features", "transformer", "ordering", "densifier", "synthesis"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["quickstart", "camvid"])
def test_fewer_steps_have_a_shorter_warmup(name):
    config = load_config(name)
    steps = config.synthesis.train.steps
    assert config.synthesis.train.warmup_steps == steps // 20 > 2
    config.synthesis.train.steps = 40
    assert read_settings(config).train["synthesis"].warmup_steps == 2
    config.synthesis.train.warmup_steps = 0  # which is left as it is
    config.synthesis.train.steps = steps
    assert read_settings(config).train["synthesis"].warmup_steps == 0


def test_every_config_says_how_to_run_it():
    for path in sorted((ROOT / "configs").glob("*.py")):
        for word in ("Command:", "Hardware:", "Time:", "Expected:"):
            assert word in path.read_text(), path


def test_cityscapes_has_the_papers_networks():
    """The defaults, whose parameters test_nets.py holds against the paper's."""
    from sims_jax.labels import CITYSCAPES
    from sims_jax.nets.ordering import OrderingConfig
    from sims_jax.nets.synthesis import SynthesisConfig
    from sims_jax.nets.transformer import TransformerConfig
    from sims_jax.networks import make_networks

    networks = make_networks(load_config("cityscapes"), CITYSCAPES)
    assert networks.transformer == TransformerConfig(box_size=None)
    assert networks.ordering == OrderingConfig(box_size=None)
    assert networks.synthesis == SynthesisConfig()


def anchors_of(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_headings(page):
    links = re.findall(r"\]\((?!https?:)(.*?)\)", PAGES[page])
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(PAGES[target]), link
    assert links


def test_every_page_is_found_from_the_readme():
    readme = PAGES[ROOT / "README.md"]
    assert all(f"]({path.relative_to(ROOT)})" in readme for path in PAGES if path.parent != ROOT)
