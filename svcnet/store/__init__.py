"""Where records live: one adapter a file behind one Protocol."""
