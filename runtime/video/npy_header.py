"""A lock that lets one thread at a time parse a NumPy file header.

``numpy.load`` and the arrays of an ``.npz`` parse headers with ``ast.literal_eval``. If two threads do that at once,
both may fail with "SystemError: AST constructor recursion depth mismatch", because CPython counts the depth of both
in one place (seen with 3.11). Where several threads read, each holds ``ONE_HEADER`` while it parses.
"""

import threading

ONE_HEADER = threading.Lock()
