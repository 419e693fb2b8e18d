"""The panel of flatness measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cnognp.measuring.place import Place
from cnognp.measuring.settings import Seeded, names, written
from cnognp.ranges import require
from landscape.results import Result
from landscape.sharpness import MEASURES, Options, panel


@dataclass(frozen=True)
class Sharpness(Seeded):
    """Every flatness measure, or those that are named.

    Args:
        measures: names, comma-separated; all if none.
        sharpness: radii and budgets; cnognp analyze RUN --only sharpness --help lists them.
    """

    measures: Sequence[str] = written("", None, names)
    sharpness: Options = field(default_factory=Options)

    def __post_init__(self):
        super().__post_init__()
        for name in self.measures:
            require(name in MEASURES, "measures", f"some of {', '.join(MEASURES)}", name)

    def measure(self, place: Place) -> Result:
        """The panel."""
        return panel(
            place.objective, place.z, options=self.sharpness, only=self.measures,
            generator=self.generator,
        )  # fmt: skip
