"""The release. The images hold the packages as plain folders, so no installed metadata can be asked for it."""

__version__ = "0.1.0"
