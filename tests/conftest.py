"""What all tests share."""

from hypothesis import settings

pytest_plugins = ["pytester", "tests.second_chance"]

# A slow machine is not a failure.
settings.register_profile("canaryproxy", deadline=None)
settings.load_profile("canaryproxy")
