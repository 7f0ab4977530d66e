"""Read the formats in which a credential contains secrets.

Each reader yields the values of a text with their names. It doesn't look into the values: ``parts``
does, as a value may be a document of another format.

- ``values`` has what readers yield, and how they name it.
- ``pem`` reads the private keys of key files.
- ``json_documents`` reads JSON.
- ``connection_strings`` reads URLs and pairs of names and values.
- ``lines`` reads a line of any other kind, and ``settings_files`` several lines.
"""

from __future__ import annotations
