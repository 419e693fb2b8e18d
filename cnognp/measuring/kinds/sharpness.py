"""The panel of flatness measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cnognp.measuring.place import Place, Result
from cnognp.measuring.settings import Seeded, names, written
from cnognp.ranges import require

if TYPE_CHECKING:
    from landscape.sharpness import Options
else:
    Options = Any


def _keys() -> type[Options]:
    """The class of the radii and budgets, which comes with torch."""
    from landscape.sharpness import Options

    return Options


@dataclass(frozen=True)
class Sharpness(Seeded):
    """Every flatness measure, or those that are named.

    Args:
        measures: names, comma-separated; all if none.
        sharpness: radii and budgets; cnognp analyze RUN --only sharpness --help lists them.
    """

    measures: Sequence[str] = written((), names, "")
    sharpness: Options = field(default_factory=lambda: _keys()(), metadata={"keys": _keys})

    def __post_init__(self):
        super().__post_init__()
        if self.measures:
            from landscape.sharpness import MEASURES

            for name in self.measures:
                require(name in MEASURES, "measures", f"some of {', '.join(MEASURES)}", name)

    def measure(self, place: Place) -> Result:
        """The panel."""
        from landscape.sharpness import panel

        return panel(
            place.objective, place.z, options=self.sharpness, only=self.measures,
            generator=self.generator,
        )  # fmt: skip
