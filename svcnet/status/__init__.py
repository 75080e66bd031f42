"""What the daemon tells about itself: health, metrics, status."""
