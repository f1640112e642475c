"""For all tests: no deadline for a single example, since the first one of a kernel compiles it."""

from hypothesis import settings

settings.register_profile("assetstream", deadline=None)
settings.load_profile("assetstream")
