"""One header of NumPy's files at a time.

``numpy.load`` and the arrays of an ``.npz`` parse their headers with ``ast.literal_eval``. Two threads at once in it may both
fail, with "SystemError: AST constructor recursion depth mismatch": CPython counts the depth of both in one place (seen with
3.11). Where several threads read, each holds ``ONE_HEADER`` for as long as it parses.
"""

import threading

ONE_HEADER = threading.Lock()
