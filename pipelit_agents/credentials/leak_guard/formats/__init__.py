"""Read the formats in which a credential contains secrets.

Each reader yields the values of a text with their names. It doesn't look into the values: ``parts``
does, as a value may be a document of another format.
"""

from __future__ import annotations
