"""Teacher targets on disk: written once, verified, read by memory map."""
