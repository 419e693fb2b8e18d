"""Principal components against their definitions, written out in double precision."""

import numpy as np
import pytest
import torch

from landscape.embedding import embedding
from landscape.results import load, save

POINTS = np.random.default_rng(0).normal(size=(12, 30)) * np.linspace(3, 0.1, 30)
GROUPS = ("sgd",) * 5 + ("lbfgs",) * 6 + ("adam",)


def up_to_sign(found, expected):
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found, expected * signs, rtol=1e-8, atol=1e-10)


def test_components_are_those_of_the_covariance():
    found = embedding(POINTS, components=3)
    centred = POINTS - POINTS.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    up_to_sign(found.coordinates, centred @ vectors[:, ::-1][:, :3])
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum())


def test_components_of_a_kernel_are_those_of_the_centred_matrix():
    new = POINTS[:4] + 0.3
    found = embedding(torch.tensor(POINTS), kind="rbf", components=3, new=new)
    gamma, count = 1 / POINTS.shape[1], len(POINTS)

    def kernel(a, b):
        return np.exp(-gamma * ((a[:, None] - b) ** 2).sum(-1))

    own = kernel(POINTS, POINTS)
    one = np.full((count, count), 1 / count)
    centred = own - one @ own - own @ one + one @ own @ one
    values, vectors = np.linalg.eigh(centred)
    values, vectors = values[::-1][:3], vectors[:, ::-1][:, :3]
    expected = vectors * np.sqrt(values)
    up_to_sign(found.coordinates, expected)
    np.testing.assert_allclose(found.explained, values / np.trace(centred))
    other = kernel(new, POINTS)
    rows = other - other.mean(1, keepdims=True) - own.mean(0) + own.mean()
    projected = rows @ vectors / np.sqrt(values)
    signs = np.sign((found.coordinates * expected).sum(0))
    np.testing.assert_allclose(found.new, projected * signs, rtol=1e-8, atol=1e-10)
    assert found.gamma == gamma and found.new_names == ("0", "1", "2", "3")


def test_points_that_are_projected_again_stay_where_they_are():
    for kind in ("pca", "rbf"):
        found = embedding(POINTS, kind=kind, new=POINTS)
        np.testing.assert_allclose(found.new, found.coordinates, atol=1e-10)


def test_distances_to_the_means_leave_the_point_itself_out():
    found = embedding(POINTS, groups=GROUPS)
    assert found.groups == ("sgd", "lbfgs", "adam")
    np.testing.assert_allclose(found.radius, np.linalg.norm(POINTS, axis=1))
    others = POINTS[1:5].mean(0)
    np.testing.assert_allclose(found.centroid_distance[0, 0], np.linalg.norm(POINTS[0] - others))
    far = np.linalg.norm(POINTS[0] - POINTS[5:11].mean(0))
    np.testing.assert_allclose(found.centroid_distance[0, 1], far)
    assert np.isnan(found.centroid_distance[11, 2])


def test_an_embedding_goes_to_a_file_and_back(tmp_path):
    found = embedding(POINTS, groups=GROUPS, new=POINTS[:2])
    save(found, tmp_path / "embedding.h5")
    again = load(tmp_path / "embedding.h5")
    np.testing.assert_array_equal(again.coordinates, found.coordinates)
    assert again.groups == found.groups and again.said() == found.said()
    assert again.tables()[0][2][2][-1] == "-"


@pytest.mark.parametrize(("keywords", "message"), [
    ({"points": POINTS[0]}, "two axes"),
    ({"points": POINTS[:1]}, "at least two points that differ are needed, got 1"),
    ({"points": np.ones((3, 4))}, "at least two points that differ"),
    ({"points": np.where(POINTS > 5, np.nan, POINTS)}, "must be finite, and number"),
    ({"components": 12}, "between 1 and 11 for 12 points of 30 numbers, got 12"),
    ({"components": 0}, "between 1 and 11"),
    ({"gamma": 0.1}, "is that of the kernel rbf"),
    ({"gamma": -1.0, "kind": "rbf"}, "gamma must be positive"),
    ({"names": ("a",)}, "names must be as many as points, got 1 for 12"),
    ({"new": POINTS[:, :3]}, "new points must have 30 numbers as the others, got 3"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        embedding(**{"points": POINTS, **keywords})
