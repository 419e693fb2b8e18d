"""The ``cnognp`` command. Nothing imports this package."""
