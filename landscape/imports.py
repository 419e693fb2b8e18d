"""What is used of packages whose import puts filters before those of the caller's warnings.

They are imported here with the filters put back, so that the first measurement of a process shows
and hides the same warnings as the second, and as the caller's own code.
"""

import warnings

with warnings.catch_warnings():
    from scipy.linalg import eigh_tridiagonal

    # Not of scipy.stats, whose import takes half a second.
    from scipy.special import bdtr, bdtrik, betainc, stdtrit

__all__ = ["bdtr", "bdtrik", "betainc", "eigh_tridiagonal", "stdtrit"]
