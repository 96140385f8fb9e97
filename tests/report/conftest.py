"""Let this folder's tests import `report_world`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
