"""What `medbench interpret` left in a folder, for the room above; `fisher` has the records of spectra."""

from medbench.adapters.interpreting import PLACES, Document, Interference, Maps, Measured, Number, fisher, read

__all__ = ["PLACES", "Document", "Interference", "Maps", "Measured", "Number", "fisher", "read"]
