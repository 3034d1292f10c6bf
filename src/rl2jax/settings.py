"""Settings that are checked."""


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises ValueError naming the field, its value and what is allowed."""
    if not condition:
        raise ValueError(f"{field} must be {allowed}, got {value!r}")
