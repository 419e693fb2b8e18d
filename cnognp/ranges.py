"""Numbers and words in range: how a setting refuses what it cannot be."""


def require(condition: bool, name: str, expected: str, got: object) -> None:
    """Nothing, if a hyper-parameter is in range.

    Raises:
        ValueError: if it is not; names what was expected and what came.
    """
    if not condition:
        raise ValueError(f"{name} must be {expected}, got {got}")
