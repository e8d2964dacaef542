"""The files of the soak, and those of the fault tests that it stands on, by their names."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "faults")]
