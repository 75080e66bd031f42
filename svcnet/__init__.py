"""svcnet: Services for any Linux machine."""

__version__ = "0.1.0"
