"""Slices that take time: metrics, error bars, progress, and going on after a kill."""

import errno
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import CE, X, Y, accuracy, built, case, chain, classes, normal, uneven
from torch.utils.data import DataLoader, TensorDataset

from landscape.files import DamagedFile
from landscape.networks.risk import EmpiricalRisk
from landscape.objective import Analytic, Ridge, Sum, value
from landscape.results import load, save
from landscape.slices import line, lines, plane, span
from landscape.slices.journal import Journal
from landscape.slices.metrics import gradient_norm

AXES = {"alpha": [-1.0, 0.0, 2.0], "beta": [-0.5, 0.0, 0.5, 1.0]}


class Stopping:
    """The sum of squares, which raises after so many points."""

    dim = 3

    def __init__(self, stop=10**9, error=KeyboardInterrupt, scale=1.0):
        self.stop, self.error, self.scale, self.seen = stop, error, scale, 0

    def terms(self):
        yield from self.batched_terms()

    def batched_terms(self):
        yield self._values

    def _values(self, rows):
        self.seen += len(rows)
        if self.seen > self.stop:
            raise self.error
        return self.scale * (rows**2).sum(-1)


class Sampled:
    """The mean of 20 equal batches of 10 numbers that were drawn with mean 0, times z."""

    dim = 1
    shares = (0.05,) * 20

    def __init__(self, generator):
        drawn = torch.randn(20, 10, generator=generator, dtype=torch.float64, device="cpu")
        self.means = drawn.mean(1)

    def terms(self):
        yield from self.batched_terms()

    def batched_terms(self):
        for mean in self.means:
            yield lambda rows, mean=mean: 0.05 * mean * rows[:, 0]


@pytest.fixture
def three():
    return normal(3), normal(3, seed=1), normal(3, seed=2)


def test_a_killed_plane_goes_on_bit_for_bit_without_computing_cells_again(tmp_path, three):
    whole = plane(Stopping(), *three, chunk=5, **AXES)
    path = tmp_path / "plane.part"
    with pytest.raises(KeyboardInterrupt):
        plane(Stopping(2 + 10), *three, chunk=5, store=path, **AXES)
    again = Stopping()
    found = plane(again, *three, chunk=5, store=path, **AXES)
    np.testing.assert_array_equal(found.loss, whole.loss)
    assert again.seen == 2 + 12 - 10
    assert found.provenance["blocks found in the file"] == 2
    done = Stopping()
    np.testing.assert_array_equal(plane(done, *three, chunk=5, store=path, **AXES).loss, whole.loss)
    assert done.seen == 2


@pytest.mark.parametrize("cut", range(1, 70, 9))
def test_a_record_cut_short_is_computed_again(tmp_path, three, cut):
    path = tmp_path / "plane.part"
    whole = plane(Stopping(), *three, chunk=5, store=path, **AXES)
    os.truncate(path, path.stat().st_size - cut)
    found = plane(Stopping(), *three, chunk=5, store=path, **AXES)
    np.testing.assert_array_equal(found.loss, whole.loss)
    assert found.provenance["blocks found in the file"] < 3
    again = plane(Stopping(), *three, chunk=5, store=path, **AXES)
    assert again.provenance["blocks found in the file"] == 3


def test_a_record_that_was_changed_is_computed_again(tmp_path, three):
    path = tmp_path / "plane.part"
    whole = plane(Stopping(), *three, chunk=5, store=path, **AXES)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    found = plane(Stopping(), *three, chunk=5, store=path, **AXES)
    np.testing.assert_array_equal(found.loss, whole.loss)
    assert found.provenance["blocks found in the file"] == 2


def journal_of(path, count, size=5):
    """A journal of blocks of random values, and where each record begins."""
    values = [np.random.default_rng(k).normal(size=size) for k in range(count)]
    made = Journal(path, {"what": "test"})
    starts = []
    for k, array in enumerate(values):
        starts.append(path.stat().st_size)
        made.append(k, array)
    made.close()
    return values, starts


def blocks(path, values):
    """Which blocks a journal has, after each was seen to be what was written."""
    journal = Journal(path, {"what": "test"})
    found = {k for k in range(len(values)) if journal.get(k) is not None}
    for k in found:
        np.testing.assert_array_equal(journal.get(k), values[k])
    assert len(journal) == len(found)
    journal.close()
    return found


@pytest.mark.parametrize("place", [0, 3, 8, 15, 16, 20, 24, 30, 63])
@pytest.mark.parametrize("bit", [0, 6])
def test_sound_records_behind_a_damaged_one_stay(tmp_path, place, bit):
    path = tmp_path / "part"
    values, starts = journal_of(path, 6)
    data = bytearray(path.read_bytes())
    for start in (starts[1], starts[4]):
        data[start + place] ^= 1 << bit
    path.write_bytes(data)
    assert blocks(path, values) == {0, 2, 3, 5}
    journal = Journal(path, {"what": "test"})
    journal.append(1, values[1])
    journal.close()
    assert blocks(path, values) == {0, 1, 2, 3, 5}
    assert len(data) < path.stat().st_size


@pytest.mark.parametrize("lost", [1, 7, 8, 24, 40])
@pytest.mark.parametrize("gained", [b"", bytes(100), bytes(range(61))], ids=len)
def test_records_behind_bytes_that_were_lost_or_came_in_between_stay(tmp_path, lost, gained):
    path = tmp_path / "part"
    values, starts = journal_of(path, 5)
    data = path.read_bytes()
    path.write_bytes(data[: starts[2]] + gained + data[starts[2] + lost :])
    assert blocks(path, values) == {0, 1, 3, 4}


def test_a_long_damaged_stretch_is_passed_over_and_a_damaged_end_cut_off(tmp_path):
    path = tmp_path / "part"
    values, starts = journal_of(path, 4, size=30_000)
    data = bytearray(path.read_bytes())
    data[starts[1] : starts[3]] = bytes(starts[3] - starts[1])
    path.write_bytes(data + b"rubbish" * 1000)
    assert blocks(path, values) == {0, 3} and path.stat().st_size == len(data)


def test_of_an_adaptive_slice_the_blocks_behind_a_damaged_one_are_measured_again(tmp_path):
    identity = {"what": "test", "adaptive": "rules"}
    made = Journal(tmp_path / "part", identity)
    start = (tmp_path / "part").stat().st_size
    for k in range(3):
        made.append(k, np.ones(3))
    made.close()
    data = bytearray((tmp_path / "part").read_bytes())
    data[start + 48] ^= 1
    (tmp_path / "part").write_bytes(data)
    again = Journal(tmp_path / "part", identity)
    assert len(again) == 1 and again.get(0) is not None
    again.close()
    assert (tmp_path / "part").stat().st_size == start + 48


def test_a_file_of_another_slice_is_refused_and_says_what_differs(tmp_path, three):
    z, u, v = three
    path = tmp_path / "plane.part"
    plane(Stopping(), z, u, v, chunk=5, store=path, **AXES)
    before = path.read_bytes()
    others = [
        ("chunk", Stopping(), (z, u, v), {"chunk": 4}),
        ("coordinates", Stopping(), (z, u, v), {"beta": [-0.5, 0.0, 0.5, 2.0]}),
        ("directions", Stopping(), (z, v, u), {}),
        ("loss at the centre, point", Stopping(), (z + 1, u, v), {}),
        ("loss at the centre", Stopping(scale=2.0), (z, u, v), {}),
        ("metrics", Stopping(), (z, u, v), {"metrics": ["gradient_norm"]}),
    ]
    for what, objective, vectors, changed in others:
        with pytest.raises(ValueError, match=f"holds another measurement: {what} differ"):
            plane(objective, *vectors, **{"chunk": 5, **AXES, **changed}, store=path)
    assert path.read_bytes() == before


def test_another_metric_of_the_same_name_is_told_apart(tmp_path, three):
    def measured(metric):
        how = {"metrics": {"m": metric}, "store": tmp_path / "part", "alpha": [-1.0, 0.0, 2.0]}
        return line(Stopping(), *three[:2], **how)

    first = Analytic(lambda z: z.sum(-1), 3)
    values = measured(first).metric_values
    np.testing.assert_array_equal(measured(first).metric_values, values)
    for other in (Analytic(lambda z: 2 * z.sum(-1), 3), "gradient_norm"):
        with pytest.raises(ValueError, match="holds another measurement: metric"):
            measured(other)


def test_other_data_of_the_same_model_are_told_apart(tmp_path):
    risk, _, z = case("stacked")
    line(risk, z, z, store=tmp_path / "part")
    other = EmpiricalRisk(built(chain), (X, Y.flip(0)), CE)
    with pytest.raises(ValueError, match="holds another measurement: data, loss at the centre"):
        line(other, z, z, store=tmp_path / "part")


@pytest.mark.parametrize("content", [b"", b"something else\n", b'{"journal": 1}\n', b"[1]\n"])
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path, three, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="it is not a file of unfinished measurements"):
        line(Stopping(), *three[:2], store=path)
    assert path.read_bytes() == content


class Full:
    """A file on a disk that has room for a few more bytes."""

    def __init__(self, file, room):
        self.file, self.room, self.closed = file, room, False

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(self.room, len(data))
        self.room -= taken
        return self.file.write(data[:taken])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_is_said_and_what_was_finished_stays(tmp_path):
    path = tmp_path / "part"
    journal = Journal(path, {"what": "test"})
    journal.append(0, np.arange(4.0))
    size = path.stat().st_size
    journal._file = Full(journal._file, 40)
    with pytest.raises(OSError, match="1 finished blocks in it stay. Make space and run"):
        journal.append(1, np.arange(4.0))
    journal.close()
    assert path.stat().st_size == size
    again = Journal(path, {"what": "test"})
    np.testing.assert_array_equal(again.get(0), np.arange(4.0))
    assert again.get(1) is None
    again.close()
    with pytest.raises(OSError, match="could not write"):
        Journal(tmp_path / "no-such-folder" / "part", {"what": "test"})


def test_progress_counts_points_up_to_the_last(three):
    told = []
    plane(Stopping(), *three, chunk=5, progress=lambda *now: told.append(now), **AXES)
    assert told == [(5, 12), (10, 12), (12, 12)]
    told.clear()
    lines(Stopping(), three[0], three[1:], alpha=[0, 1], progress=lambda *now: told.append(now))
    assert told == [(2, 4), (4, 4)]


def test_metrics_are_those_of_each_cell():
    risk, _, z = case("stacked-uneven")
    u, v = 0.3 * normal(2, len(z), seed=7)
    right = EmpiricalRisk(built(chain), uneven(X, Y), accuracy)
    found = plane(
        risk, z, u, v, metrics={"accuracy": right, "slope": "gradient_norm", "top": "lambda_max"},
        alpha=[0.0, 2.0], beta=[-0.5, 0.0, 1.0],
    )  # fmt: skip
    assert found.metrics == ("accuracy", "slope", "top")
    assert found.metric_values.shape == (3, 2, 3)
    for i, a in enumerate(found.alpha):
        for j, b in enumerate(found.beta):
            point = z + a * u + b * v
            expected = [float(value(right, point)), gradient_norm(risk, point)]
            np.testing.assert_allclose(found.metric_values[:2, i, j], expected, rtol=1e-6)
    dense = torch.autograd.functional.hessian(lambda p: value_of(risk, p), z + 2 * u)
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert found.metric_values[2, 1, 1] == pytest.approx(top, rel=2e-3)


def value_of(risk, point):
    return sum(term(point) for term in risk.terms())


def test_metrics_where_nothing_is_finite_are_nan(three):
    broken = Analytic(lambda z: torch.log(z[..., 0]) + 0 * z.sum(-1), 3)
    z = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64, device="cpu")
    found = line(broken, z, z, alpha=[-2.0, 0.0], metrics=["lambda_max"])
    assert np.isnan(found.metric_values[0, 0])
    assert found.metric_values[0, 1] == pytest.approx(0.0, abs=1e-12)


def test_standard_errors_are_those_of_the_batches():
    inputs, target = normal(60, 4, seed=3), classes(60, seed=3)
    sizes = (7, 20, 13, 20)
    risk = EmpiricalRisk(built(chain), uneven(inputs, target, sizes), CE)
    z = risk.point()
    u = normal(len(z), seed=7)
    found = line(risk, z, u, alpha=[0.0, 1.0], standard_errors=True)
    batches = [EmpiricalRisk(built(chain), b, CE) for b in uneven(inputs, target, sizes)]
    for i, a in enumerate(found.alpha):
        losses = np.array([float(value(batch, z + a * u)) for batch in batches])
        weights = np.array(sizes) / 60
        mean = weights @ losses
        expected = np.sqrt(weights @ (losses - mean) ** 2 / (len(sizes) - 1))
        assert found.standard_error[i] == pytest.approx(expected, rel=1e-9)
        assert found.loss[i] == pytest.approx(mean, rel=1e-12)
    ridge = line(Sum(risk, Ridge(1.0, dim=len(z))), z, u, alpha=[0.0, 1.0], standard_errors=True)
    np.testing.assert_allclose(ridge.standard_error, found.standard_error, rtol=1e-9)


def test_standard_errors_cover_the_loss_on_all_data():
    generator = torch.Generator(device="cpu").manual_seed(0)
    inside, trials = 0, 300
    z = torch.ones(1, dtype=torch.float64, device="cpu")
    for _ in range(trials):
        found = line(Sampled(generator), z, z, alpha=[0.0, 1.0], standard_errors=True)
        inside += abs(found.loss[0]) < 2.093 * found.standard_error[0]
    # Student's t with 19 degrees of freedom covers 95 %; 4 binomial deviations are 5 %.
    assert abs(inside / trials - 0.95) < 0.05


def test_standard_errors_need_batches(three):
    one, _, z = case("stacked")
    with pytest.raises(ValueError, match="standard errors need at least 2 batches of data, got 1"):
        line(one, z, z, standard_errors=True)
    with pytest.raises(ValueError, match="Stopping does not say what its terms weigh"):
        line(Stopping(), *three[:2], standard_errors=True)
    two, _, z = case("stacked-uneven")
    with pytest.raises(ValueError, match="need one risk on data in the objective, got several"):
        line(Sum(two, two), z, z, standard_errors=True)


def test_lines_of_several_directions_span_a_band(tmp_path):
    bowl = Analytic(lambda z: (z**2).sum(-1), 3)
    z = normal(3)
    directions = [normal(3, seed=s) for s in (1, 2, 3)]
    found = lines(bowl, z, directions, alpha=[-1.0, 0.0, 0.5], name="random")
    for s, direction in enumerate(directions):
        np.testing.assert_array_equal(
            found.loss[s], line(bowl, z, direction, alpha=[-1.0, 0.0, 0.5]).loss
        )
    np.testing.assert_array_equal(found.low, found.loss.min(0))
    np.testing.assert_array_equal(found.high, found.loss.max(0))
    np.testing.assert_allclose(found.mean, found.loss.mean(0))
    np.testing.assert_allclose(found.loss[:, 1], found.center)
    save(found, tmp_path / "lines.h5")
    np.testing.assert_array_equal(load(tmp_path / "lines.h5").loss, found.loss)
    with pytest.raises(ValueError, match="a band needs at least 2 directions, got 1"):
        lines(bowl, z, directions[:1])
    with pytest.raises(ValueError, match="one direction at a time: use line"):
        lines(bowl, z, directions, metrics=["trace"])


@settings(max_examples=30, deadline=None)
@given(
    low=st.floats(-5, 5), width=st.floats(0.01, 10), n=st.integers(2, 7), m=st.integers(2, 7),
    chunk=st.integers(1, 60),
)  # fmt: skip
def test_grids_of_any_range_shape_and_chunk_are_affine_where_the_function_is(
    low, width, n, m, chunk
):
    slopes = torch.tensor([2.0, -3.0], dtype=torch.float64, device="cpu")
    function = Analytic(lambda z: 1 + (z * slopes).sum(-1), 2)
    u, v = torch.eye(2, dtype=torch.float64, device="cpu")
    alpha, beta = span(low, low + width, n), span(-width, width, m)
    found = plane(function, 0 * u, u, v, alpha=alpha, beta=beta, chunk=chunk)
    expected = 1 + 2 * alpha[:, None] - 3 * beta[None]
    np.testing.assert_allclose(found.loss, expected, rtol=1e-12, atol=1e-12)


def test_a_plane_that_varies_along_one_axis_has_equal_rows_or_columns():
    function = Analytic(lambda z: z[..., 1] ** 3 + 0 * z.sum(-1), 2)
    u, v = torch.eye(2, dtype=torch.float64, device="cpu")
    found = plane(function, 0 * u, u, v, alpha=[0.0, 1.0, 3.0], beta=[-1.0, 2.0])
    np.testing.assert_array_equal(found.loss, np.tile([-1.0, 8.0], (3, 1)))


def test_a_loader_that_shuffles_and_drops_its_last_batch_is_refused():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, drop_last=True)
    with pytest.raises(ValueError, match="drop"):
        EmpiricalRisk(built(chain), loader, CE)


BAD = [
    ({"evaluation": "fast"}, "evaluation must be one of"),
    ({"precision": "half"}, "precision must be one of"),
    ({"metrics": "accuracy"}, "metrics must be a sequence or a dictionary, got the text"),
    ({"metrics": ["sharpness"]}, "metric 'sharpness' must be an objective or one of"),
    ({"metrics": {"a": Analytic(lambda z: z.sum(-1), 2)}}, "vectors of length 3, got 2"),
    ({"chunk": 0}, "chunk must be at least 1, got 0"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("given_", "message"), BAD)
def test_bad_options_are_refused(given_, message, three):
    with pytest.raises(ValueError, match=message):
        line(Stopping(), *three[:2], **given_)


def test_bad_ranges_are_refused():
    for low, high in ((1.0, 1.0), (1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="a range must go from a lower to a higher number"):
            span(low, high)
    with pytest.raises(ValueError, match="a range needs at least 2 coordinates, got 1"):
        span(0.0, 1.0, 1)
    np.testing.assert_array_equal(span(0.0, 1.0, 3), [0, 0.5, 1])
