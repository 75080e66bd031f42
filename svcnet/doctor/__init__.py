"""What of a machine makes services hang: facts in, findings out. Pure; must not read or change anything itself."""
