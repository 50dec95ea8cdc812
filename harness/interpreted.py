"""What `medbench interpret` left in a folder, for the room above."""

from medbench.adapters.interpreting import PLACES, Document, Interference, Maps, Measured, Number, read

__all__ = ["PLACES", "Document", "Interference", "Maps", "Measured", "Number", "read"]
