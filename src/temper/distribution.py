"""What Temper is called where it is installed from: ``temper`` is another project's name on the package registry."""

NAME = "temper-robust"


def version() -> str:
    """The version that is installed."""
    from importlib import metadata  # takes a while to import, and most of Temper does without

    return metadata.version(NAME)
