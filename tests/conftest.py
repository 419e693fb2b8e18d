"""Fixtures that most tests of `landscape` share: devices, and objectives beside their truth."""

import jaxtyping
import objectives
import pytest


@pytest.fixture(params=objectives.DEVICES)
def device(request):
    """Every device present."""
    return request.param


@pytest.fixture(params=objectives.NAMES)
def name(request):
    """Every objective of the table."""
    return request.param


@pytest.fixture
def case(name, device):
    """An objective, its truth in plain torch, and a point."""
    return objectives.case(name, device)


@pytest.fixture
def hessian(name, device):
    """The dense Hessian of the case's truth at its point, by autograd in float64."""
    return objectives.hessian(name, device)


@pytest.fixture
def unchecked():
    """Without run-time type checks.

    They would refuse bad arguments before the project does, and they draw from Python's generator.
    """
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
