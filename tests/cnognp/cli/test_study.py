"""``cnognp study``: each study comes out of one command, and what it cannot run is refused."""

import ast
import subprocess
import sys
import time
from dataclasses import asdict, fields
from importlib import import_module

import numpy as np
import pytest
import runs
import yaml

from analyses.published import NAMES
from cnognp.cli import console, main, study
from cnognp.cli.study import studies
from landscape.results import Cycle, Distribution, Stationary, Walks, load
from landscape.sharpness import Options

NAMED = tuple(studies())
SMALL = ["--functions", "himmelblau", "--restarts", "3", "--budget", "40"]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.calls(capsys)


def test_studies_are_listed_with_their_questions(call):
    listed = call("study", "--json").document["studies"]
    assert tuple(listed) == NAMED
    assert {"cycle", "distribution", "flat-minima", "flatness", "stationary", "walks"} <= {*NAMED}
    assert all(line.endswith("?") for line in listed.values())
    assert all(name in call("study").out for name in NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_help_of_a_study_has_its_docstring_and_an_option_for_each_field(call, name):
    module = import_module(f"analyses.{name.replace('-', '_')}")
    shown = call("study", name, "--help").out
    assert "Question: " in " ".join(shown.split())
    for field in fields(module.Config):
        assert f"--{field.name}" in shown
    for option in ("--out", "--workers", "--resume", "--json"):
        assert option in shown


def test_listing_studies_imports_none_of_them():
    script = (
        "import sys; from cnognp.cli.main import main; main(['study']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=runs.ENVIRONMENT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_there_is_no_circle_in_the_command_line():
    from pathlib import Path

    import cnognp.cli

    imports = {}
    for path in Path(cnognp.cli.__path__[0]).glob("*.py"):
        tree = ast.walk(ast.parse(path.read_text()))
        found = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module]
        imports[path.stem] = {
            name
            for node in found
            for name in (
                [alias.name for alias in node.names]
                if node.module == "cnognp.cli"
                else [node.module.removeprefix("cnognp.cli.")]
            )
            if node.module.startswith("cnognp.cli")
        }
    while leaves := [name for name, used in imports.items() if not used & set(imports)]:
        for name in leaves:
            del imports[name]
    assert not imports


def test_a_result_of_one_method_on_one_function(call, tmp_path):
    given = ["--method", "sam", "--restarts", "4", "--budget", "6", "--method_options.rho", "0.1"]
    told = call("study", "stationary", *given, "--out", "s", "--json").document
    assert (told["method"], told["restarts"]) == ("sam", 4)
    found = load(tmp_path / "s/analysis/stationary.h5")
    assert isinstance(found, Stationary)
    assert found.provenance["configuration"]["method_options"]["rho"] == 0.1
    assert (tmp_path / "s/figures/stationary-map.png").exists()


def test_the_study_of_flat_minima_comes_out_of_one_command(call, tmp_path):
    sizes = ["--restarts", "3", "--members", "4", "--budget", "18", "--functions", "f2"]
    outcome = call("study", "flat-minima", *sizes, "--out", "flat", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    told = outcome.document
    assert list(told["methods"])[:2] == ["CNO", "gradient norm 0.01"]
    cno = told["methods"]["CNO"]
    assert cno["flattest"]["f2"]["trace"]["share"] == cno["share"]["f2 0"]
    assert cno["evaluations"] == {"f2": 4 * 18}
    assert "Not shown" in told["conclusion"]
    assert isinstance(load(tmp_path / "flat/analysis/flat-minima.h5"), Distribution)
    drawn = {path.name for path in (tmp_path / "flat/figures").glob("*.png")}
    assert drawn == {"flat-minima-shares.png", "flat-minima-flattest.png"}


@pytest.mark.slow
def test_flat_minima_are_printed_as_tables_with_a_conclusion(call):
    sizes = ["--restarts", "2", "--members", "3", "--iterations", "1", "--out", "flat"]
    outcome = call("study", "flat-minima", *sizes)
    assert outcome.code == 0
    assert "at 0, flattest" in outcome.out and "at D, flattest" in outcome.out
    assert "1 iterations whatever the fitness costs" in " ".join(outcome.err.split())


def test_paths_are_drawn_and_animated(call, tmp_path):
    chosen = ["--methods", "gd,cno", "--evaluations", "8", "--members", "3"]
    outcome = call("study", "walks", *chosen, "--out", "p", "--json")
    assert outcome.code == 0
    assert list(outcome.document["methods"]) == ["gd", "cno"]
    assert sum(outcome.document["methods"]["gd"]["ends"].values()) == 3
    assert outcome.document["evaluations"] == 8
    assert isinstance(load(tmp_path / "p/analysis/walks.h5"), Walks)
    drawn = {path.name for path in (tmp_path / "p/figures").iterdir() if path.suffix != ".pdf"}
    assert drawn == {f"walks{end}" for end in (".gif", "-paths.png", "-curves.png")}


def test_the_cycle_of_sam_is_printed_beside_its_prediction(call, tmp_path):
    outcome = call("study", "cycle", "--out", "c")
    assert outcome.code == 0 and "0.1010245852" in outcome.out and "0.09964" in outcome.out
    assert isinstance(load(tmp_path / "c/analysis/cycle.h5"), Cycle)
    assert (tmp_path / "c/figures/cycle-amplitude.png").exists()
    given = ["--lr", "0.005", "--rho", "0.02", "--offset", "0.4,3"]
    told = call("study", "cycle", *given, "--out", "d", "--json").document
    product = 0.005 * 133.7856152130671
    assert told["predicted"] == pytest.approx(0.02 * product / (2 - product))
    assert told["measured"]["quadratic"] == pytest.approx(told["predicted"], rel=1e-9)


def test_a_table_goes_on_where_it_was_and_two_workers_say_the_same(call, tmp_path):
    one = call("study", "distribution", *SMALL, "--methods", "gd,sam", "--out", "d", "--json")
    assert one.code == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "d/units").iterdir()}
    assert {path.name for path in written} == {"gd-on-himmelblau.h5", "sam-on-himmelblau.h5"}
    every = ["--methods", "gd,sam,nim", "--out", "d", "--resume", "--workers", "2"]
    more = call("study", "distribution", *SMALL, *every, "--json").document
    assert all(path.stat().st_mtime_ns == before for path, before in written.items())
    for method in ("GD", "SAM"):
        assert more["methods"][method]["counts"] == one.document["methods"][method]["counts"]
    assert list(more["methods"]) == ["GD", "SAM", NAMES["nim"]]
    assert (tmp_path / "d/figures/himmelblau-maps.png").exists()


PARTS = {
    "walks": (["--methods", "gd,sam,cno,nim", "--members", "3"], 4),
    "flat-minima": (["--functions", "himmelblau", "--restarts", "40", "--penalties", "0,0.01"], 5),
}


def test_the_file_that_a_study_leaves_is_a_configuration_of_it_and_flags_win(call, tmp_path):
    one = call("study", "distribution", *SMALL, "--methods", "gd,sam", "--out", "d", "--json")
    again = ("--config", "d/config.yaml", "--out", "e", "--json")
    two = call("study", "distribution", *again)
    assert two.document == one.document and two.document["restarts"] == one.document["restarts"]
    text = (tmp_path / "d" / "summary.md").read_text(encoding="utf-8")
    assert text == (tmp_path / "e" / "summary.md").read_text(encoding="utf-8")
    table = text.split("\n\n")[1].splitlines()
    assert text.startswith("# distribution") and len(table) > 4
    assert len({line.count(" | ") for line in table}) == 1
    fewer = call("study", "distribution", *again, "--methods", "gd").document
    assert set(fewer["methods"]) == {"GD"}
    (tmp_path / "bad.yaml").write_text("colour: red\n")
    outcome = call("study", "distribution", "--config", "bad.yaml")
    assert outcome.code == 2 and "colour" in outcome.err and "Traceback" not in outcome.err


CHANGED = {
    "finetune": {"weights": ("a.safetensors", "b.safetensors"), "rates": (1.0, 0.1), "images": 7},
    "gcsam": {"verify": False, "networks": ("resnet20",), "options": Options(pairs=3)},
    "flatness": {"runs": ("one", "two")},
}


@pytest.mark.parametrize("name", NAMED)
def test_the_configuration_of_every_study_survives_its_file(tmp_path, name):
    module = import_module(f"analyses.{name.replace('-', '_')}")
    given = module.Config(**CHANGED.get(name, {}))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(console.plain(asdict(given)), sort_keys=False))
    options = main._parser_of("study", ["study", name, "--config", str(file)])
    again = study._config(module.Config, options)
    assert again == given and repr(again) == repr(given)


def test_numbers_of_a_list_are_of_their_type():
    module = import_module("analyses.finetune")
    options = main._parser_of("study", ["study", "finetune", "--rates", "1,0.1"])
    assert repr(study._config(module.Config, options).rates) == "(1.0, 0.1)"


def test_a_study_of_one_part_is_resumed_too(call, tmp_path):
    def written(*flags):
        assert call("study", "cycle", "--out", "c", *flags).code == 0
        return (tmp_path / "c/units/cycle.h5").stat().st_mtime_ns

    first = written("--steps", "20")
    assert written("--steps", "20", "--resume") == first
    assert written("--steps", "21", "--resume") > first
    assert load(tmp_path / "c/analysis/cycle.h5").position.shape[1] == 22


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_study_that_is_killed_goes_on_with_two_workers_to_the_same_bits(call, tmp_path, name):
    options, count = PARTS[name]
    assert call("study", name, *options, "--out", "whole").code == 0
    units = tmp_path / "killed/units"
    command = [sys.executable, "-m", "cnognp", "study", name, *options, "--workers", "2"]
    with subprocess.Popen([*command, "--out", "killed"], env=runs.ENVIRONMENT) as going:
        while going.poll() is None and not list(units.glob("*.h5")):
            time.sleep(0.001)
        going.kill()
    assert going.returncode < 0
    kept = {path: path.stat().st_mtime_ns for path in units.glob("*.h5")}
    assert kept
    again = call("study", name, *options, "--workers", "2", "--out", "killed", "--resume")
    assert again.code == 0 and len(list(units.glob("*.h5"))) == count
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    whole, resumed = (load(tmp_path / f"{out}/analysis/{name}.h5") for out in ("whole", "killed"))
    for field in fields(whole):
        if field.name != "provenance":
            np.testing.assert_array_equal(getattr(whole, field.name), getattr(resumed, field.name))


@pytest.mark.slow
def test_a_study_of_runs_prints_what_compare_prints(call):
    for name in ("one", "two"):
        assert call(*runs.train(name, members=2, iterations=2)).code == 0
    quick = ["--measures", "gradient-norm", "--resamples", "100"]
    told = call("study", "flatness", "--runs", "one,two", *quick, "--out", "f", "--json").document
    beside = call("compare", "one", "two", "--flatness", "--measures", "gradient-norm",
                  "--resamples", "100", "--out", "c", "--json").document  # fmt: skip
    assert told["measures"] == beside["measures"] and not told["concluded"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("nosuch", "unknown study 'nosuch'; there are comparison, connectivity, cycle"),
        ("walk", "did you mean walks?"),
        ("walks --steps 3", "unknown option --steps"),
        ("distribution --methods gd,newton", "method must be one of gd, sgd"),
        ("distribution --methods ,", "methods must be different names, at least one"),
        ("distribution --restarts 0", "restarts must be at least 1, got 0"),
        ("distribution --workers 0", "workers must be at least 1, got 0"),
        ("flat-minima --functions six-hump-camel", "as himmelblau, f2, f2-2d have"),
        ("flat-minima --budget 3", "budget must be at least 18"),
        ("flat-minima --restarts -1", "restarts must be at least 1, got -1"),
        ("walks --function f1", "a function of 2 coordinates; f1 has 1"),
        ("walks --members 0", "members must be at least 1, got 0"),
        ("cycle --lr 0.02", "below 2 / 133.786 = 0.01495"),
        ("cycle --function nosuch", "function must be one of himmelblau"),
        ("stationary --restarts 1.5", "--restarts: expected int, got 1.5"),
        ("flatness", "runs must name at least one folder"),
        ("finetune", "weights must name a file for each of resnet20, resnet32, got none"),
        ("finetune --seeds 1", "seeds must be at least 2, got 1"),
        ("gcsam --task wine", "task must be one of breastmnist, pneumoniamnist, cifar10"),
        ("gcsam --data none", "no file none/breastmnist.npz: name the folder"),
        ("gcsam --task pneumoniamnist --workers 2", "no file data/pneumoniamnist.npz"),
    ],
)
def test_what_cannot_be_run_is_exit_code_2_and_leaves_no_trace(call, tmp_path, argv, said):
    outcome = call("study", *argv.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["finetune", "gcsam --task cifar10"])
def test_images_that_are_not_there_are_missed_before_the_first_unit(call, tmp_path, name):
    pytest.importorskip("torchvision")
    (tmp_path / "w.safetensors").write_bytes(b"never read")
    weights = ["--networks", "resnet20", "--weights", "w.safetensors"] if name == "finetune" else []
    outcome = call("study", *name.split(), "--data", "none", *weights)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert "no data_batch_1" in outcome.err and "download=True" in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_units_of_an_earlier_run_are_kept_where_they_are_not_taken(call, tmp_path):
    assert call("study", "cycle", "--out", "c", "--steps", "20").code == 0
    first = (tmp_path / "c/units/cycle.h5").read_bytes()
    again = call("study", "cycle", "--out", "c", "--steps", "21")
    assert again.code == 0 and "c/units-2; --resume would have taken them" in again.err
    assert (tmp_path / "c/units-2/cycle.h5").read_bytes() == first
