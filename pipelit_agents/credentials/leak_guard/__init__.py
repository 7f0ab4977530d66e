"""The leak guard: find and mask open secrets in values that leave a running node.

What a secret looks like:

- ``recognition`` tells secrets from host names, user names and settings, by name and by form.
- ``formats`` reads the documents that a credential may be: a URL, a key file, settings.
- ``parts`` finds the secrets within a credential by these readers, also in nested documents.
- ``spellings`` encodes, escapes and quotes a value, as text and documents do.
- ``forms`` lists the spellings of a secret and of its parts, and ``beginnings`` how much of each a
  stream may pass on.
- ``patterns`` searches a text for the forms of all open secrets.

What a value contains:

- ``stored`` lists what a value stores, without running foreign code.
- ``own_forms`` lists what a value's own code makes of it, on a thread and for a limited time.
- ``written`` collects both from a whole state: all texts and bytes it could be written as.
- ``search`` raises the error for a secret in them, and names its path.
- ``node_input`` keeps what a node was given, which it may give back.

What is done about a secret:

- ``data`` walks what can be changed in place, with a way to replace each value.
- ``frames`` reads exceptions, and the variables of their frames.
- ``masking`` replaces secrets by a mask: in exceptions, in what is displayed, in a node's input.

Where it could leave a node, besides the return value:

- ``guard`` says what the following ask of a scope.
- ``streams`` holds back the beginning of a secret that is streamed in pieces: ``streamed_texts``
  finds the texts in a piece, and ``readings`` puts them together.
- ``callbacks`` guards the handlers of callbacks, ``langgraph_io`` all other objects of LangGraph.
- ``surroundings`` compares what outlives the node: environment, context, tags, traces.
"""

from __future__ import annotations
