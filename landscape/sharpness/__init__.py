"""Every flatness measure of a point."""

from landscape.sharpness.ascent import worst_case
from landscape.sharpness.measures import MEASURES, Measure, panel
from landscape.sharpness.reading import Options, Reading, Site

__all__ = [
    "MEASURES",
    "Measure",
    "Options",
    "Reading",
    "Site",
    "panel",
    "worst_case",
]
