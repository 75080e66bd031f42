"""What the daemon tells about itself: health, metrics, status.

Owns: the shape of `/status`, what is counted, and the pages that show both. Must not ask any part itself: it is handed
a function that returns a Report. Import from the modules, this package re-exports nothing.
"""
