"""The path finders by name: one line each."""

from collections.abc import Mapping
from types import MappingProxyType

from landscape.paths.bezier import Bezier
from landscape.paths.elastic_band import ElasticBand
from landscape.paths.finder import Finder
from landscape.paths.fourier import Fourier
from landscape.paths.linear import Linear
from landscape.paths.polygon import Polygon
from landscape.paths.string import String

FINDERS: Mapping[str, type[Finder]] = MappingProxyType({
    kind.name: kind for kind in (Linear, Fourier, ElasticBand, String, Bezier, Polygon)
})
"""The classes of their settings; `landscape.paths.find` takes one."""
