"""`python -m tuneyard.launch` is the same as `tuneyard`."""

from tuneyard.launch.main import run

run()
