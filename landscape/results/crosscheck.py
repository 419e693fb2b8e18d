"""The same quantities by two codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from landscape.results.record import Result, Said, Table, axes


@dataclass(frozen=True, eq=False, kw_only=True)
class Crosscheck(Result):
    """Quantities by this code and by an independent one, side by side.

    Attributes:
        quantities: their names.
        ours: by this code.
        error: of ours: the proven bound of an eigenvalue, the standard error of a trace.
        theirs: by the other code, which states no error of an eigenvalue.
        their_error: the standard error of its trace; NaN for eigenvalues.
        difference_in_errors: theirs minus ours, in units of the errors of both together where both
            are known, else of the larger of our bound and the other code's tolerance.
        code: the other code.
        code_tolerance: at which it stops, relative.
        status: what was compared.
        statistics: which BatchNorm statistics were used.
    """

    quantities: tuple[str, ...]
    ours: np.ndarray = axes("quantity")
    error: np.ndarray = axes("quantity")
    theirs: np.ndarray = axes("quantity")
    their_error: np.ndarray = axes("quantity")
    difference_in_errors: np.ndarray = axes("quantity")
    code: str
    code_tolerance: float
    status: str
    statistics: str = ""

    def said(self) -> Said:
        """How far apart the codes are at most."""
        most = abs(self.difference_in_errors).max()
        return f"largest difference {most:.2g} errors", self.status

    def tables(self) -> Sequence[Table]:
        """Every quantity by both codes, and in which errors a difference is counted."""
        title = (
            "by two codes. in errors: an eigenvalue's in the larger of our proven bound and the "
            f"{self.code_tolerance:g} of the largest at which {self.code} stops, no bound; "
            "a trace's, by random vectors in both, in the standard errors of both together"
        )
        columns = ("quantity", "ours", "error", "PyHessian", "difference", "in errors")
        rows: list[Sequence[Any]] = [
            (name, float(ours), float(error), float(theirs), float(theirs - ours), float(ratio))
            for name, ours, error, theirs, ratio in zip(
                self.quantities, self.ours, self.error, self.theirs, self.difference_in_errors,
                strict=True,
            )
        ]  # fmt: skip
        return [(title, columns, rows)]
