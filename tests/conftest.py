"""For all tests: no deadline for a single example, since the first one of a kernel compiles it. And the hundreds of
workers and commands that are started keep what Python makes of our sources, whatever the environment says: each would
take a second for it.
"""

import os

from hypothesis import settings

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("assetstream", deadline=None)
settings.load_profile("assetstream")
