"""The launchers are scripts of launch/, not modules of the package."""

from pathlib import Path
import sys

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "launch"))
