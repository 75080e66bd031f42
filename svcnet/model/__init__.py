"""The records and what is worked out from them.

Owns: every type that flows between rooms, frozen. Knows nothing of files, wire forms, kernels or clocks.
One noun a module; import from the modules, this package re-exports nothing.
"""
