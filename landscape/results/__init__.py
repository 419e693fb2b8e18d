"""Immutable records of labelled arrays: what a measurement gives, a file keeps and a figure reads.

Needs numpy and h5py, not torch, so that pictures can be drawn where nothing is computed. A kind of
result is known once its module is here: the names below are a shorter way to those in wide use.
"""

from landscape.results.crosscheck import Crosscheck
from landscape.results.curvature import Gradients, Spectrum
from landscape.results.density import Density
from landscape.results.paths import Path, Saddle
from landscape.results.record import Result, axes, load, provenance, save
from landscape.results.recorder import Recording, Trajectory
from landscape.results.sharpness import Flatness, Panel, table
from landscape.results.slices import Line, Lines, Surface
from landscape.results.stationary import Distribution, Maps, Stationary
from landscape.results.trace import Diagonal, FiniteScaleTrace, FrobeniusNorm, Trace
from landscape.results.training import History
from landscape.results.walks import Cycle, Walks

__all__ = [
    "Crosscheck",
    "Cycle",
    "Density",
    "Diagonal",
    "Distribution",
    "FiniteScaleTrace",
    "Flatness",
    "FrobeniusNorm",
    "Gradients",
    "History",
    "Line",
    "Lines",
    "Maps",
    "Panel",
    "Path",
    "Recording",
    "Result",
    "Saddle",
    "Spectrum",
    "Stationary",
    "Surface",
    "Trace",
    "Trajectory",
    "Walks",
    "axes",
    "load",
    "provenance",
    "save",
    "table",
]
