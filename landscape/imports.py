"""What is used of packages whose import puts filters before those of the caller's warnings.

They are imported here with the filters put back, so that the first measurement of a process shows
and hides the same warnings as the second, and as the caller's own code.
"""

import warnings

with warnings.catch_warnings():
    from scipy.linalg import eigh_tridiagonal
    from scipy.special import betainc
    from scipy.stats import binom
    from scipy.stats import t as student

__all__ = ["betainc", "binom", "eigh_tridiagonal", "student"]
