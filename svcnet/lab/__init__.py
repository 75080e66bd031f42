"""The lab: minions and pods as network namespaces on one machine.

Owns: their addresses, wiring, processes and clean end. Knows the records only as what it registers, and the daemon only
as a command that it starts. Import from the modules, this package re-exports nothing.
"""
