"""bench/ is run from the root and never installed: its tests need the root on their path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
