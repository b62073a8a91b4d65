"""The version of the distribution, its one place: the build reads it from here, and so do both packages."""

__version__ = "0.1.0"
