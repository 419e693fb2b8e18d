"""The results of studies that come with the code are those of the units beside them."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import analyses
from analyses import false_positives, finetune, gcsam, mountain_passes, populations, topography
from cnognp.cli import findings
from landscape.results import load
from landscape.sharpness import Options

KEPT = Path(analyses.__path__[0]) / "results"


def configured(kind, folder):
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    options = Options(**{**tree.pop("options"), "layers": ()})
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
    return kind(**given, options=options)


@pytest.mark.parametrize("folder", sorted(KEPT.glob("gcsam*")), ids=lambda folder: folder.name)
def test_the_tables_of_gcsam_are_made_of_their_units(folder):
    config = configured(gcsam.Config, folder)
    units = gcsam.units(config)
    files = [folder / "units" / (re.sub(r"\W+", "-", unit.name) + ".h5") for unit in units]
    ends = [load(file) for file in files]
    assert [end.provenance["unit"] for end in ends] == [repr(unit.argument) for unit in units]
    made = gcsam.joined(config, ends)
    for name, result in made.items():
        found = load(folder / "analysis" / f"{name}.h5")
        for field, value in vars(result).items():
            if field != "provenance":
                np.testing.assert_equal(getattr(found, field), value)
    assert findings.summary(made) == (folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["finetune", "finetune-resnet32"])
def test_the_table_of_finetune_is_made_of_its_units(name):
    folder = KEPT / name
    config = configured(finetune.Config, folder)
    files = [
        folder / "units" / f"{network}-{method}-{rate:g}-seed-{seed}.h5".replace("0.005", "0-005")
        for network in config.networks
        for method, rate, seed in finetune._runs(config)
    ]
    made = finetune.joined(config, [load(file) for file in files])
    found = load(folder / "analysis" / "finetune.h5")
    for field in ("accuracy", "difference", "low", "high", "p_holm", "p_same", "sharpness"):
        np.testing.assert_allclose(getattr(made["finetune"], field), getattr(found, field))
    assert made["finetune"].conclusion == found.conclusion
    (flatness,) = (key for key in made if key.startswith("flatness-"))
    kept = load(folder / "analysis" / f"{flatness}.h5")
    np.testing.assert_allclose(made[flatness].tau, kept.tau)
    text = (folder / "summary.md").read_text(encoding="utf-8")
    for i, method in enumerate(found.methods):
        assert f"| {method} | {found.mean[0, i]:.2f} ± {found.deviation[0, i]:.2f} |" in text
    assert found.conclusion in text


def test_the_false_positives_of_tests_come_out_again():
    folder = KEPT / "false-positives"
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
    made = false_positives.study(false_positives.Config(**given))
    found = load(folder / "analysis" / "false-positives.h5")
    for name in ("rejected", "covered", "power", "predicted"):
        np.testing.assert_allclose(getattr(made, name), getattr(found, name), atol=1e-3)
    assert made.conclusion == found.conclusion


def test_the_passes_are_those_of_their_functions():
    folder = KEPT / "mountain-passes"
    config = mountain_passes.Config()
    made = mountain_passes.joined(
        config, [load(folder / "units" / f"{name}.h5") for name in config.functions]
    )
    for name, result in made.items():
        found = load(folder / "analysis" / f"{name}.h5")
        for field, value in vars(result).items():
            if field != "provenance":
                np.testing.assert_equal(getattr(found, field), value)
    assert findings.summary(made) == (folder / "summary.md").read_text(encoding="utf-8")


def test_the_populations_are_those_of_their_trajectories():
    folder = KEPT / "populations"
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
    config = populations.Config(**given)
    listed = populations.units(config)
    files = [folder / "units" / f"{unit.name.replace(' ', '-')}.h5" for unit in listed]
    first = [load(file) for file in files]
    assert all(
        each.provenance["unit"] == repr(unit.argument)
        for each, unit in zip(first, listed, strict=True)
    )
    made = populations.joined(config, first)
    found = load(folder / "analysis" / "populations.h5")
    for field, value in vars(made["populations"]).items():
        if field != "provenance":
            np.testing.assert_equal(getattr(found, field), value)
    assert findings.summary(made) == (folder / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", sorted(KEPT.glob("topography-*")), ids=lambda each: each.name)
def test_the_walls_are_those_of_their_pairs(folder):
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
    config = topography.Config(**given)
    (network,) = config.networks
    names = ["spread", *(f"{i}-to-{j}" for i, j in config.pairs)]
    made = topography.joined(
        config, [load(folder / "units" / f"{network}-{name}.h5") for name in names]
    )
    found = load(folder / "analysis" / f"topography-{network}.h5")
    for field, value in vars(made[f"topography-{network}"]).items():
        if field != "provenance":
            np.testing.assert_equal(getattr(found, field), value)
    assert findings.summary(made) == (folder / "summary.md").read_text(encoding="utf-8")
