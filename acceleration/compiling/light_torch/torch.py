"""Stands in for torch in the processes that only load a library to see whether it loads; see vector_units.py.

A library that needs torch's own gets the real torch. No other process has this folder in its path.
"""

import ctypes
import os
import re
import sys

try:
    ctypes.CDLL(re.search(r'LoadLibrary\("(.+)"\)', sys.orig_argv[-1])[1])
except (OSError, TypeError):
    here = os.path.dirname(__file__)
    sys.path[:] = [folder for folder in sys.path if folder != here]
    del sys.modules["torch"]
    import torch  # noqa: F401
