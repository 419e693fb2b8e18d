"""Numbers and intervals as tables tell them; what is not known is a dash."""


def number(value: float, how: str = ".2g") -> str:
    """A number in that format.

    >>> number(0.1234), number(float("nan"))
    ('0.12', '-')
    """
    return format(value, how) if value == value else "-"


def interval(low: float, high: float, how: str = "+.3g") -> str:
    """Two ends in that format.

    >>> interval(-0.5, 2.0), interval(float("nan"), 2.0)
    ('-0.5 to +2', '-')
    """
    return f"{low:{how}} to {high:{how}}" if low == low and high == high else "-"
