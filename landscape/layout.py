"""`Layout` under the name that scripts import it by."""

from landscape.networks import Entry, Layout

__all__ = ["Entry", "Layout"]
