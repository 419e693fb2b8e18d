"""``cnognp demo``: each study comes out of one command, and what it cannot run is refused."""

import json

import pytest
import runs

from landscape.results import Cycle, Distribution, Walks, load


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.calls(capsys)


def test_the_study_of_flat_minima_comes_out_of_one_command(call, tmp_path):
    sizes = ["--restarts", "3", "--members", "4", "--budget", "18"]
    outcome = call("demo", "f2", "--flat", *sizes, "--out", "flat", "--json")
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
    outcome = call("demo", "--flat", *sizes)
    assert outcome.code == 0
    assert "at 0, flattest" in outcome.out and "at D, flattest" in outcome.out
    assert "1 iterations whatever the fitness costs" in " ".join(outcome.err.split())


def test_paths_are_drawn_and_animated(call, tmp_path):
    chosen = ["--methods", "gd,cno", "--budget", "8", "--members", "3"]
    outcome = call("demo", "--paths", *chosen, "--out", "p", "--json")
    assert outcome.code == 0
    assert list(outcome.document["methods"]) == ["gd", "cno"]
    assert sum(outcome.document["methods"]["gd"]["ends"].values()) == 3
    assert outcome.document["evaluations"] == 8
    assert isinstance(load(tmp_path / "p/analysis/himmelblau-walks.h5"), Walks)
    drawn = {path.name for path in (tmp_path / "p/figures").iterdir() if path.suffix != ".pdf"}
    assert drawn == {f"himmelblau-walks{end}" for end in (".gif", "-paths.png", "-curves.png")}


def test_the_cycle_of_sam_is_printed_beside_its_prediction(call, tmp_path):
    outcome = call("demo", "--cycle", "--out", "c")
    assert outcome.code == 0 and "0.1010245852" in outcome.out and "0.09964" in outcome.out
    assert isinstance(load(tmp_path / "c/analysis/himmelblau-cycle.h5"), Cycle)
    assert (tmp_path / "c/figures/himmelblau-cycle-amplitude.png").exists()
    given = ["--method", "sam", "--method.lr", "0.005", "--method.rho", "0.02"]
    told = call("demo", "--cycle", *given, "--out", "d", "--json").document
    product = 0.005 * 133.7856152130671
    assert told["predicted"] == pytest.approx(0.02 * product / (2 - product))
    assert told["measured"]["quadratic"] == pytest.approx(told["predicted"], rel=1e-9)


def test_a_budget_takes_the_place_of_iterations(call):
    told = call("demo", "himmelblau", "--method", "sam", "--budget", "6", "--restarts", "2",
                "--out", "b", "--json")  # fmt: skip
    assert told.code == 0 and json.dumps(told.document["shares"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("--table --flat", "choose one study, got --table and --flat"),
        ("--paths --cycle", "choose one study, got --paths and --cycle"),
        ("himmelblau --methods gd", "--methods goes with --table or --paths"),
        ("--table --method sam", "--table has no use for --method"),
        ("--table --iterations 5", "--table has no use for --iterations"),
        ("--table --methods gd,newton", "method must be one of gd, sgd"),
        ("--table --methods ,", "methods must be different names, at least one"),
        ("--table --restarts 0", "restarts must be at least 1, got 0"),
        ("--flat six-hump-camel", "several minima of one value, as himmelblau, f2, f2-2d have"),
        ("--flat --method sam", "--flat has no use for --method"),
        ("--flat --budget 3", "budget must be at least 18"),
        ("--flat --iterations 3 --budget 20", "(--budget) or --iterations, not both"),
        ("--flat --restarts -1", "restarts must be at least 1, got -1"),
        ("--paths f1", "a function of 2 coordinates; f1 has 1"),
        ("--paths --restarts 3", "--paths has no use for --restarts"),
        ("--paths --members 0", "members must be at least 1, got 0"),
        ("--cycle --members 3", "--cycle has no use for --members"),
        ("--cycle --method cno", "--cycle is that of SAM"),
        ("--cycle --method gd --method.lr 0.01", "add --method sam to --method.lr"),
        ("--cycle --method sam --method.lr 0.02", "below 2 / 133.786 = 0.01495"),
        ("--cycle nosuch", "function must be one of himmelblau"),
        ("himmelblau --method gd --method.lr -1", "lr must be at least 0"),
        ("--seed -3", "seed must be at least 0, got -3"),
        ("--tolerance 0", "tolerance must be positive, got 0.0"),
        ("--budget 0", "budget must be at least 1, got 0"),
        ("--restarts 1.5", "--restarts: expected int, got 1.5"),
    ],
)
def test_what_cannot_be_run_is_exit_code_2_and_leaves_no_trace(call, tmp_path, argv, said):
    outcome = call("demo", *argv.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_help_says_what_the_studies_are(call):
    shown = " ".join(call("demo", "--help").out.split())
    for words in ("--table", "--flat", "--paths", "--cycle", "at equal evaluations", "animated GIF",
                  "predicted amplitude", "500 if none, 200 with --flat"):  # fmt: skip
        assert words in shown
