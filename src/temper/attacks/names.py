"""Names of the suites, for whoever reads a configuration and attacks nothing: torch is not imported for a name."""

from temper.errors import ArgumentError

SUITE_NAMES = ("standard", "fast", "margin", "apgd", "pgd")


def check_suite(name: str) -> str:
    """Return ``name`` if a suite is called so; raise ArgumentError otherwise."""
    if name not in SUITE_NAMES:
        raise ArgumentError("suite", name, f"choose one of {', '.join(SUITE_NAMES)}")
    return name
