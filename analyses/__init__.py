"""Studies: each module answers one question, ``Config -> study -> Result``."""
