"""What becomes of one packet: by the records, and by what the kernel holds now.

Owns: both answers, as values, and their comparison. Reads nothing itself: records, dumps, saved chains and this
machine's addresses are arguments. Import from the modules, this package re-exports nothing.
"""
