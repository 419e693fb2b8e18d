"""Every measurement of the command line against the functions that it stands for."""

import csv
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import runs
import torch

from cnognp.measuring import subjects
from cnognp.measuring.directions import chosen
from cnognp.measuring.kinds import KINDS, keywords
from cnognp.measuring.kinds.plane import Plane
from cnognp.training.config import RunFolder
from landscape import results
from landscape.curvature import Hessian
from landscape.objective import value, value_and_grad
from landscape.operators import EmpiricalFisher, Fisher, GaussNewton

SMALL = ("--grid", 3, "--points", 5, "--density-steps", 10, "--density-probes", 3, "--probes", 20)


@pytest.fixture
def call(capsys):
    return runs.calls(capsys)


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measures") / "wine"
    assert runs.forks()(runs.train(folder, members=4, iterations=3))[0].code == 0
    return folder


@pytest.fixture(scope="module")
def subject(wine):
    return subjects.of_run(RunFolder(wine), "best", "last", "", False)


def measured(call, run, out, *more):
    outcome = call("analyze", run, "--out", out, "--json", *SMALL, *more)
    assert (outcome.code, outcome.err) == (0, "")
    return {path.stem: results.load(path) for path in (out / "analysis").glob("*.h5")}


def test_the_trace_of_the_run_is_that_of_the_dense_hessian(call, wine, subject, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "trace")["trace"]
    z = subject.points[""]
    exact = float(Hessian(subject.objective(z), z.double()).dense().diagonal().sum())
    assert abs(found.estimate - exact) <= max(6 * found.standard_error, 1e-5 * abs(exact))
    assert found.provenance["settings"]["probes"] == 20


def test_the_density_has_the_steps_and_probes_that_were_asked_for(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "density")["density"]
    assert found.nodes.shape == (3, 10)


@pytest.mark.parametrize(
    ("word", "make"),
    [
        ("gauss-newton", GaussNewton),
        ("empirical-fisher", EmpiricalFisher),
        ("fisher-gaussian", lambda risk, z: Fisher(risk, z, "gaussian")),
    ],
)
def test_other_matrices_and_their_blocks_are_chosen_by_name(
    call, wine, subject, tmp_path, word, make
):
    found = measured(
        call, wine, tmp_path, "--only", "spectrum,trace,density", "--operator", word,
        "--where", "2.bias,0.bias", "--k", "2",
    )  # fmt: skip
    z = subject.points[""]
    whole = make(subject.objective(z), z.double())
    names = [e for e in subject.objective(z).layout.entries if e.name.endswith("bias")]
    index = torch.cat([torch.arange(e.offset, e.offset + e.size, device="cpu") for e in names])
    eye = torch.eye(whole.dim, dtype=torch.float64, device="cpu")[index]
    truth = torch.linalg.eigvalsh((whole @ eye)[:, index]).numpy()
    spectrum = found["spectrum"]
    np.testing.assert_allclose(spectrum.eigenvalues, truth[::-1][:2], rtol=1e-5)
    assert found["trace"].estimate == pytest.approx(truth.sum(), rel=1e-5)
    for result in found.values():
        assert (result.where, result.dim) == ("2.bias, 0.bias", len(index))
        assert result.operator == whole.name


def test_curvature_at_a_distance_stands_beside_the_trace_at_the_point(
    call, wine, subject, tmp_path
):
    found = measured(
        call, wine, tmp_path, "--only", "trace,finite-scale", "--scales", "0.01,0.1",
        "--trace-method", "hutchinson",
    )  # fmt: skip
    ladder = found["finite-scale"]
    assert ladder.trace == found["trace"].estimate and list(ladder.sigma) == [0.01, 0.1]
    z = subject.points[""].double()
    u = 0.1 * torch.randn(4000, len(z), generator=torch.Generator("cpu").manual_seed(5)).double()
    objective = subject.objective(z)
    rise = (value(objective, z + u) + value(objective, z - u) - 2 * value(objective, z)) / 0.01
    error = np.hypot(float(rise.std()) / 4000**0.5, ladder.standard_error[1])
    assert abs(float(rise.mean()) - ladder.estimate[1]) < 6 * error


def test_flatness_measures_are_chosen_by_name_and_radius(call, wine, subject, tmp_path):
    found = measured(
        call, wine, tmp_path, "--only", "sharpness", "--measures", "sam,gradient-norm",
        "--sharpness.rho", "0.2",
    )["sharpness"]  # fmt: skip
    z = subject.points[""]
    loss, slope = value_and_grad(subject.objective(z), z.double())
    far = value(subject.objective(z), z.double() + 0.2 * slope / slope.norm())
    assert found.measures == ("sam", "gradient-norm")
    assert found.value == pytest.approx([float(far - loss), float(slope.norm())], rel=1e-4)


def test_both_codes_agree_within_a_few_errors(call, wine, tmp_path):
    outcome = call("analyze", wine, "--out", tmp_path, "--only", "gradient", "--crosscheck", "--k",
                   2, "--probes", 50, "--json")  # fmt: skip
    assert outcome.code == 0
    found = results.load(tmp_path / "analysis" / "crosscheck.h5")
    assert found.quantities == ("eigenvalue 1", "eigenvalue 2", "trace")
    assert found.theirs[:2] == pytest.approx(found.ours[:2], rel=1e-3)
    assert abs(found.difference_in_errors[2]) < 5


def test_metrics_of_the_task_stand_beside_the_loss(call, wine, subject, tmp_path):
    found = measured(
        call, wine, tmp_path, "--only", "plane", "--metrics",
        "accuracy,test_loss,gradient_norm", "--standard-errors",
    )["plane"]  # fmt: skip
    known = subject.problem.metrics(subject.points[""])
    at_the_point = found.metric_values[:, 1, 1]
    assert found.metrics == ("accuracy", "test_loss", "gradient_norm")
    wanted = [known["train"]["accuracy"], known["test"]["loss"]]
    assert at_the_point[:2] == pytest.approx(wanted, rel=1e-5)
    assert (found.standard_error > 0).all()
    assert not (tmp_path / "analysis" / "plane.part").exists()


def test_several_seeds_make_a_band(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "line", "--seeds", 3)["line"]
    assert found.loss.shape == (3, 5)
    assert np.allclose(found.loss[:, 2], found.center, rtol=1e-6)


def test_an_adaptive_plane_says_what_it_measured(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "plane", "--adaptive", "--grid", 9)["plane"]
    assert found.loss.shape == (9, 9) and found.evaluated.any()


@pytest.mark.parametrize("direction", ["random", "eigenvectors", "gradient", "pca"])
def test_directions_are_what_they_are_called(subject, direction):
    z = subject.points[""]
    place = subject.place(z)
    u, names = chosen(place, Plane(direction=direction), 2)
    assert u.shape == (2, len(z)) and len(names) == 2
    hessian = Hessian(subject.objective(z), z.double())
    unit = u.double() / u.double().norm(dim=1, keepdim=True)
    if direction == "eigenvectors":
        image = hessian @ unit
        quotient = (unit * image).sum(1, keepdim=True)
        assert float((image - quotient * unit).norm(dim=1).max()) < 1e-2 * float(quotient.max())
    if direction == "gradient":
        _, slope = value_and_grad(subject.objective(z), z.double())
        assert float(unit[0] @ slope / slope.norm()) == pytest.approx(1.0, abs=1e-5)
    if direction == "pca":
        centred = subject.population.double() - subject.population.double().mean(0)
        top = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
        assert (unit * top).sum(1).abs().numpy() == pytest.approx([1.0, 1.0], abs=1e-4)
    if direction == "random":
        assert float(u[0].norm()) < 2 * float(z.norm())


def test_a_plane_that_was_cut_short_goes_on_from_what_is_done(subject, tmp_path):
    calls = []

    def stop(name, done, total):
        calls.append((name, done, total))
        if 0 < done < total:
            raise RuntimeError("the machine went down")

    settings = Plane(grid=41, metrics=("gradient_norm",))
    whole = subjects.analyze(subject, tmp_path / "whole", [settings])["plane"]
    with pytest.raises(RuntimeError, match="went down"):
        subjects.analyze(subject, tmp_path / "cut", [settings], stop)
    assert not (tmp_path / "cut" / "plane.h5").exists()
    again = subjects.analyze(subject, tmp_path / "cut", [settings])["plane"]
    assert np.array_equal(whole.loss, again.loss)
    assert calls[0][0] == "plane"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "line", "--direction", "sideways"), "direction must be one of random"),
        (("--only", "line", "--by", "leaf"), "by must be one of filter"),
        (("--only", "line", "--metrics", "beauty"), "no metric 'beauty'; there are"),
        (("--only", "line", "--seeds", "3", "--metrics", "accuracy"), "seeds make a band"),
        (("--only", "trace", "--trace-method", "guess"), "trace_method must be one of auto"),
        (("--only", "trace", "--probes", "1"), "probes must be at least 2"),
        (("--only", "sharpness", "--measures", "taste"), "measures must be some of"),
        (("--only", "sharpness", "--sharpness.rho", "-1"), "rho must be positive"),
        (("--only", "plane", "--precision", "float8"), "precision must be one of same"),
        (("--only", "plane", "--span", "-1"), "span must be positive and finite"),
        (("--only", "spectrum", "--operator", "laplace"), "operator must be one of hessian"),
        (("--only", "spectrum", "--where", "head"), "no parameter is called 'head'"),
        (("--only", "finite-scale", "--where", "2"), "finite-scale is of the whole Hessian"),
        (("--only", "trace", "--crosscheck", "--operator", "gauss-newton"), "crosscheck is of the"),
        (("--only", "finite-scale", "--scales", "0"), "scales must be positive and finite"),
        (("--only", "finite-scale", "--scales", ""), "scales must be at least one distance"),
        (("--only", "finite-scale", "--scales", "far"), "scales must be numbers"),
        (("--only", "curvature"), "unknown measurement 'curvature'"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(call, wine, tmp_path, arguments, message):
    outcome = call("analyze", wine, "--out", tmp_path, *arguments)
    assert outcome.code == 2
    assert message in outcome.err and "Traceback" not in outcome.err
    assert not list(tmp_path.rglob("*.h5"))


def test_a_metric_that_is_not_known_is_refused_before_anything_is_measured(call, wine, tmp_path):
    outcome = call("analyze", wine, "--out", tmp_path, "--metrics", "beauty")
    assert outcome.code == 2 and "gradient_norm, lambda_max, trace" in outcome.err
    assert not list(tmp_path.rglob("*.h5"))


def test_every_measurement_is_listed_in_the_help(call):
    said = call("analyze", "--help").out
    for name in KINDS:
        assert name in said


def test_a_result_is_exported_by_the_suffix_of_the_file(call, wine, tmp_path):
    found = measured(call, wine, tmp_path, "--only", "plane")["plane"]
    source = tmp_path / "analysis" / "plane.h5"
    target = tmp_path / "plane.csv"
    assert call("export", source, target, "--json").document["kind"] == "Surface"
    rows = list(csv.reader(target.read_text().splitlines()))
    assert len(rows) == 1 + found.loss.size
    for wrong, message in (
        (tmp_path / "plane.doc", "formats are"),
        (source, "is the result itself"),
        (tmp_path / "missing" / "plane.csv", "no folder"),
    ):
        outcome = call("export", source, wrong)
        assert outcome.code == 2 and message in outcome.err


def test_a_file_with_other_settings_is_set_aside(call, wine, tmp_path):
    argv = ("analyze", wine, "--out", tmp_path, "--only", "trace", "--trace-method", "hutchinson")
    assert call(*argv, "--probes", 5).err == ""
    assert call(*argv, "--probes", 5, "--grid", 9).err == ""
    first = results.load(tmp_path / "analysis" / "trace.h5")
    outcome = call(*argv, "--probes", 6)
    assert (outcome.code, outcome.err.count("\n")) == (0, 1)
    assert "trace.h5 had other settings; that result is now trace-2.h5" in outcome.err
    assert results.load(tmp_path / "analysis" / "trace-2.h5").estimate == first.estimate
    assert call(*argv, "--probes", 7).code == 0
    files = {path.name: results.load(path) for path in (tmp_path / "analysis").glob("*.h5")}
    probes = {name: found.provenance["settings"]["probes"] for name, found in files.items()}
    assert probes == {"trace.h5": 7, "trace-2.h5": 5, "trace-3.h5": 6}


def test_every_setting_is_one_flag_with_a_line_of_help(call):
    said = call("analyze", "--help").out
    defaults: dict = {}
    for kind, page in KINDS.items():
        for entry in fields(page):
            assert f"--{entry.name.replace('_', '-')}" in said
            assert keywords(kind)[entry.name].help, f"{kind} says nothing of {entry.name}"
            given = getattr(page(), entry.name)
            assert defaults.setdefault(entry.name, given) == given
            read = keywords(kind)[entry.name]
            if "read" in entry.metadata:
                assert entry.metadata["read"](read.default[0]) == given
            elif read.kind is not None:
                assert (read.kind, read.default) == (entry.type, given)


def test_help_needs_no_torch():
    code = "import sys; from cnognp.measuring import kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=runs.ENVIRONMENT).returncode == 0
